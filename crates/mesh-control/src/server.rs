//! Assembly of the roles into one process.
