//! Container runtime control: one trait, a process engine on network namespaces, sidecar injection.
