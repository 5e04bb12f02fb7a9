//! What the daemon does not remember: which run of a unit was stopped on request, when it was ready
//! first, when rules were set.
//!
//! ```text
//! <root>/<group>/files/…            files of its units, mounted into those that have some
//!               /rules.json         when its redirect rules were set
//!               /<unit>.stopped     the run that was stopped
//!               /<unit>.ready       the run that was ready, and when
//!               /<unit>.failed      why it did not start, where the daemon does not keep that
//! <root>/.held-<container>          the run of a container of others that was paused
//!       /.image-<repository>        what an image was built from, and the digest of that
//! ```
//!
//! Each note names the run that it is about by the time of its start, so an old one says nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::process::record;
use crate::{Name, RuntimeError};

#[derive(Clone, Debug)]
pub(super) struct Notes {
    pub(super) root: PathBuf,
}

/// Something that happened in one run of a container.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Note {
    /// When the run started, in milliseconds since 1970.
    run: u64,
    /// When it happened, in milliseconds since 1970.
    at: u64,
}

/// What files were like, and their digest.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Digest {
    of: u128,
    digest: u128,
}

/// What a note is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'a> {
    /// Redirect rules were set in the group's namespace.
    Rules,
    /// The unit was stopped on request.
    Stopped(&'a Name),
    /// The unit was ready.
    Ready(&'a Name),
    /// The unit did not start.
    Failed(&'a Name),
}

// === impl Notes ===

impl Notes {
    pub(super) fn group(&self, group: &Name) -> PathBuf {
        self.root.join(group)
    }

    pub(super) fn files(&self, group: &Name) -> PathBuf {
        self.group(group).join("files")
    }

    /// Notes that something happened now, unless it was noted for this run before.
    pub(super) fn write(
        &self,
        group: &Name,
        about: About<'_>,
        run: Option<u64>,
    ) -> Result<u64, RuntimeError> {
        if let Some(at) = self.read(group, about, run)? {
            return Ok(at);
        }
        let at = crate::process::now_millis();
        let run = run.unwrap_or_default();
        record::make_directory(&self.group(group))?;
        record::write(&self.path(group, about), &Note { run, at })?;
        Ok(at)
    }

    /// When something happened in this run.
    pub(super) fn read(
        &self,
        group: &Name,
        about: About<'_>,
        run: Option<u64>,
    ) -> Result<Option<u64>, RuntimeError> {
        let note: Option<Note> = record::read(&self.path(group, about))?;
        Ok(note
            .filter(|note| Some(note.run) == run)
            .map(|note| note.at))
    }

    /// Forgets one note.
    pub(super) fn forget(&self, group: &Name, about: About<'_>) -> Result<(), RuntimeError> {
        crate::process::network::remove_file(&self.path(group, about))
    }

    /// Forgets what was noted of a unit.
    pub(super) fn remove(&self, group: &Name, unit: &Name) -> Result<(), RuntimeError> {
        self.forget(group, About::Stopped(unit))?;
        self.forget(group, About::Ready(unit))?;
        self.forget(group, About::Failed(unit))
    }

    /// Notes why a unit did not start.
    pub(super) fn fail(&self, group: &Name, unit: &Name, reason: &str) -> Result<(), RuntimeError> {
        record::make_directory(&self.group(group))?;
        record::write(&self.path(group, About::Failed(unit)), &reason)
    }

    /// Why a unit did not start when it was told to last.
    pub(super) fn failure(
        &self,
        group: &Name,
        unit: &Name,
    ) -> Result<Option<String>, RuntimeError> {
        record::read(&self.path(group, About::Failed(unit)))
    }

    /// Notes that this run of a container of others was paused.
    pub(super) fn hold(&self, container: &str, run: u64) -> Result<(), RuntimeError> {
        let at = crate::process::now_millis();
        record::write(&self.held(container), &Note { run, at })
    }

    /// The run of a container of others that was paused and not released.
    pub(super) fn held_run(&self, container: &str) -> Result<Option<u64>, RuntimeError> {
        let note: Option<Note> = record::read(&self.held(container))?;
        Ok(note.map(|note| note.run))
    }

    /// Forgets that a container of others was paused.
    pub(super) fn release(&self, container: &str) -> Result<(), RuntimeError> {
        crate::process::network::remove_file(&self.held(container))
    }

    /// The digest of files that an image was made from, if they are those of before.
    pub(super) fn digest(&self, repository: &str, of: u128) -> Result<Option<u128>, RuntimeError> {
        let note: Option<Digest> = record::read(&self.built(repository))?;
        Ok(note.filter(|note| note.of == of).map(|note| note.digest))
    }

    /// Notes the digest of files that an image is made from.
    pub(super) fn digested(
        &self,
        repository: &str,
        of: u128,
        digest: u128,
    ) -> Result<(), RuntimeError> {
        record::write(&self.built(repository), &Digest { of, digest })
    }

    /// Forgets the digest of an image's files.
    pub(super) fn undigested(&self, repository: &str) -> Result<(), RuntimeError> {
        crate::process::network::remove_file(&self.built(repository))
    }

    fn built(&self, repository: &str) -> PathBuf {
        self.root
            .join(format!(".image-{}", repository.replace('/', "_")))
    }

    fn held(&self, container: &str) -> PathBuf {
        // No name of a group begins so.
        self.root.join(format!(".held-{container}"))
    }

    fn path(&self, group: &Name, about: About<'_>) -> PathBuf {
        let file = match about {
            // No unit's note has this name: it would end in another word.
            About::Rules => "rules.json".to_owned(),
            About::Stopped(unit) => format!("{unit}.stopped"),
            About::Ready(unit) => format!("{unit}.ready"),
            About::Failed(unit) => format!("{unit}.failed"),
        };
        self.group(group).join(file)
    }
}
