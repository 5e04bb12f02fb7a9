//! `mesh docker status`: which containers asked for a sidecar, and what came of it.

use std::process::ExitCode;

use mesh_runtime::docker::{Asker, Standing};
use serde::Serialize;

use super::Socket;
use crate::connect::Home;
use crate::engine;
use crate::exit::{DRIFT, OK, Outcome};
use crate::output::{Format, print_json, print_table};

/// Show the containers whose labels ask for a sidecar, and what came of it.
///
/// Exits with 3 when one runs without.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    socket: Socket,
    #[command(flatten)]
    home: Home,
}

/// A container, as `--json` prints it.
#[derive(Debug, Serialize)]
struct View {
    container: String,
    id: String,
    /// The group of its sidecar.
    group: Option<String>,
    /// `enrolled`, `not-ready`, `waiting`, `held`, `refused`, `ended` or `unasked`.
    state: &'static str,
    /// Why it is refused.
    problems: Vec<String>,
}

pub(super) async fn run(args: &Args) -> Outcome {
    let engine = args.socket.open(&args.home.home).await?;
    let askers = engine.askers().await;
    let askers = askers.map_err(|error| engine::failed(&error))?;
    let views: Vec<_> = askers.into_iter().map(View::of).collect();
    let is_right = views
        .iter()
        .all(|view| matches!(view.state, "enrolled" | "ended" | "unasked"));
    if args.format.json {
        print_json(&views)?;
    } else {
        print_table(
            &["CONTAINER", "ID", "GROUP", "STATE"],
            views.iter().map(|view| {
                [
                    view.container.clone(),
                    view.id.chars().take(12).collect(),
                    view.group.clone().unwrap_or_else(|| "-".to_owned()),
                    view.state.to_owned(),
                ]
            }),
        );
        for view in &views {
            for problem in &view.problems {
                println!("{}: {problem}", view.container);
            }
        }
    }
    Ok(ExitCode::from(if is_right { OK } else { DRIFT }))
}

// === impl View ===

impl View {
    fn of(asker: Asker) -> Self {
        let (group, state, problems) = match asker.standing {
            Standing::Enrolled { group, is_ready } => {
                let state = if is_ready { "enrolled" } else { "not-ready" };
                (Some(group), state, Vec::new())
            }
            Standing::Waiting { group, is_held } => {
                let state = if is_held { "held" } else { "waiting" };
                (Some(group), state, Vec::new())
            }
            Standing::Refused(problems) => {
                let problems = problems.0.iter().map(ToString::to_string);
                (None, "refused", problems.collect())
            }
            Standing::Ended => (None, "ended", Vec::new()),
            _ => (None, "unasked", Vec::new()),
        };
        Self {
            container: asker.name,
            id: asker.id,
            group: group.map(|group| group.to_string()),
            state,
            problems,
        }
    }
}
