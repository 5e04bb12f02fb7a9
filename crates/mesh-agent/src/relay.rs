//! The relay of ADS: Envoy's stream on one side, Pilot's on the other, and the accepted configuration between.

mod accepted;
mod session;
