//! `mesh vm confirm`: a join stays, also after a reboot.

use std::path::Path;

use mesh_netfilter::Confirmed;

use super::files::{FileError, Root};
use super::leave::{self, Parting};
use super::plan::{
    Link, REDIRECT_UNIT, UNCONFIRMED_UNIT, boot_links, unconfirmed_link, unconfirmed_unit,
};
use super::record::{Init, Lock, Record, State};
use super::request::packaged;
use super::{rules, system};
use crate::exit::{Failure, OK, Outcome};
use crate::ground;

/// Keep what `mesh vm join --no-confirm` did.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[expect(clippy::unused_async, reason = "every verb is one")]
pub(crate) async fn run(_: &Args) -> Outcome {
    ground::check()?;
    confirm(&Root::new(Path::new("/")))?;
    println!("this machine stays in the mesh");
    Ok(OK.into())
}

/// Keeps the rules and has the units start at boot; if the time is up, takes everything back.
pub(super) fn confirm(root: &Root) -> Result<(), Failure> {
    let _lock = Lock::take(root)?;
    let Some(mut record) = Record::load(root)? else {
        return Err(Failure::new("there is no join to confirm")
            .with_hint("it was taken back if its time was up; `mesh vm join` begins again"));
    };
    if record.state == State::Confirmed {
        return Ok(());
    }
    if rules::confirm()? != Confirmed::Confirmed {
        leave::take_back(root, &record, Parting::Undone)?;
        return Err(Failure::new(
            "too late: nobody had confirmed in time, and everything was taken back",
        ));
    }
    let of = |error: FileError| Failure::of(&error);
    if record.init == Init::Systemd {
        let links = boot_links(&packaged(root));
        let new = links.iter().filter(|link| !root.has(&link.path));
        let new: Vec<Link> = new.cloned().collect();
        for link in &new {
            record.changes.push(root.change(&link.path).map_err(of)?);
        }
        // What is remembered and was not done is no harm; the other way round it would stay.
        record.save(root)?;
        for link in &new {
            root.link(link).map_err(of)?;
        }
    }
    record.state = State::Confirmed;
    record.save(root)?;
    if record.init == Init::None {
        return Ok(());
    }
    system::stop(UNCONFIRMED_UNIT)?;
    let link = unconfirmed_link(&packaged(root)).path;
    for path in [link, unconfirmed_unit()] {
        root.forget(&path).map_err(of)?;
    }
    system::reload()?;
    system::start(REDIRECT_UNIT)
}
