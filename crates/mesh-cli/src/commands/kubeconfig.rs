//! `mesh kubeconfig`: lets another user in.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_control::api::bootstrap::Authority;

use crate::connect::Home;
use crate::exit::{Failure, OK, Outcome};

/// Make a kubeconfig for a user, with a client certificate of the API server's CA.
///
/// What the user may do is decided by Roles and RoleBindings.
/// Works where the CA's key is: on the machine and as the user that `mesh up` ran as.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the user.
    #[arg(long)]
    user: String,
    /// A group that the user is in; may be repeated.
    #[arg(long)]
    group: Vec<String>,
    /// How long the certificate holds, in hours.
    #[arg(long, default_value_t = 24 * 30, value_parser = clap::value_parser!(u32).range(1..=24 * 365))]
    hours: u32,
    /// URL of the API server; that of the admin's kubeconfig unless given.
    #[arg(long)]
    server: Option<String>,
    /// Where to write it (0600); standard output unless given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    home: Home,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let authority = Authority::load(&args.home.home).map_err(|error| {
        Failure::of(&error)
            .with_hint("`mesh up` makes the API server's CA; --home names its directory")
    })?;
    let life = Duration::from_secs(u64::from(args.hours) * 3600);
    let text = authority
        .user_kubeconfig(&args.user, &args.group, life, args.server.as_deref())
        .map_err(|error| Failure::of(&error))?;
    match &args.output {
        None => print!("{text}"),
        Some(file) => write(file, &text)
            .map_err(|error| Failure::doing(format!("writing {}", file.display()), &error))?,
    }
    Ok(OK.into())
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}
