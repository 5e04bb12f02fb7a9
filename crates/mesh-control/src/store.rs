//! Where the API server keeps objects.
