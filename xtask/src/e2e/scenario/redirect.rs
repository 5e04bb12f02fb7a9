//! Rows of this part of the scenario.

use crate::e2e::world::World;

pub(crate) async fn rows(_world: &mut World) {}
