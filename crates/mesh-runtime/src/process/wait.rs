//! Waiting for a unit: until it is ready, until nobody takes care of it any more.

use std::io;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::ProcessEngine;
use super::watch::{DirectoryWatch, ProcessWatch};
use crate::{Name, RuntimeError, UnitStatus};

impl ProcessEngine {
    pub(super) async fn ready(
        &self,
        group: &Name,
        unit: &Name,
        limit: Duration,
    ) -> Result<UnitStatus, RuntimeError> {
        let began = Instant::now();
        let reached = self.until(group, unit, |status| {
            status.ready || !status.state.is_active()
        });
        let status = match timeout(limit, reached).await {
            Ok(status) => status?,
            Err(_elapsed) => {
                let engine = &self.engine;
                let status = engine.status(group, unit)?;
                return Err(RuntimeError::NotReady {
                    group: group.clone(),
                    unit: unit.clone(),
                    waited: began.elapsed(),
                    state: status.state,
                });
            }
        };
        if status.ready {
            return Ok(status);
        }
        Err(RuntimeError::Ended {
            group: group.clone(),
            unit: unit.clone(),
            state: status.state,
        })
    }

    pub(super) async fn ended(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<UnitStatus, RuntimeError> {
        self.until(group, unit, |status| !status.state.is_active())
            .await
    }

    /// Waits until a unit's status is as wanted: looks at each word of its supervisor, and once
    /// more when that is gone.
    async fn until(
        &self,
        group: &Name,
        unit: &Name,
        wanted: impl Fn(&UnitStatus) -> bool,
    ) -> Result<UnitStatus, RuntimeError> {
        let engine = &self.engine;
        let failed = |error: io::Error| RuntimeError::system(format!("watch unit `{unit}`"), error);
        engine.unit_record(group, unit)?;
        let mut words =
            DirectoryWatch::of_records(&engine.layout.unit(group, unit)).map_err(failed)?;
        loop {
            let status = engine.status(group, unit)?;
            if wanted(&status) {
                return Ok(status);
            }
            match engine.status_record(group, unit)? {
                Some(record) if record.supervisor.is_alive() => {
                    let supervisor = ProcessWatch::new(&record.supervisor).map_err(failed)?;
                    tokio::select! {
                        changed = words.changed() => changed.map_err(failed)?,
                        ended = supervisor.ended() => ended.map_err(failed)?,
                    }
                }
                // Not started yet: somebody else will.
                _ => words.changed().await.map_err(failed)?,
            }
        }
    }
}
