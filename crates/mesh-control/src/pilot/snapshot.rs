//! What a proxy is to have: a pure function of the mesh.
