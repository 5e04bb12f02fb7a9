//! Which packets go to the proxy, and how to say so to the kernel.
