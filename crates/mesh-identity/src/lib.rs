//! Who a workload is on the wire: key, CSR, client of the CA, and TLS that checks SPIFFE identities.
