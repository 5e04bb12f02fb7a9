//! The sample application of the end-to-end scenario, and the load that is put on it.
//!
//! The sample has the shape of Istio's Bookinfo: productpage calls details and reviews,
//! reviews calls ratings.
//! Every instance is the same small HTTP server, [`echo`], which tells who called it and how.
//! Through its [`control`] socket, a file, an instance makes calls of its own:
//! that is how the scenario speaks from inside a workload without being one.

pub mod call;
pub mod control;
pub mod echo;
pub mod port;
