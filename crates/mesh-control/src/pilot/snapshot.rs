//! Configuration of proxies, made from a mesh and nothing else.
