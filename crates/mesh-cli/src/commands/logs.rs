//! `mesh logs`: what the units of a group wrote.

use std::io::{self, Write as _};

use futures_util::stream::{self, StreamExt as _};
use mesh_runtime::{LogOptions, Name};

use crate::connect::Home;
use crate::engine;
use crate::exit::{Failure, OK, Outcome};

/// Show what a workload, its sidecar or the control plane wrote.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group: a workload's name, or `control-plane`.
    group: Name,
    /// One of its units; all without, each line with the unit it is from.
    unit: Option<Name>,
    /// Go on with what is written later, until the units have ended.
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines of each unit.
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    #[command(flatten)]
    engine: engine::Choice,
    #[command(flatten)]
    home: Home,
}

pub(crate) async fn run(args: &Args) -> Outcome {
    let engine = engine::open(&args.engine, &args.home.home).await?;
    let units = engine::units(&*engine, &args.group, args.unit.as_ref()).await?;
    let options = LogOptions {
        tail: args.tail,
        follow: args.follow,
    };
    let with_names = args.unit.is_none() && units.len() > 1;
    let mut streams = Vec::new();
    for unit in units {
        let log = engine.logs(&args.group, &unit, options);
        let log = log.await.map_err(|error| Failure::of(&error))?;
        let mut lines = Lines::new(with_names.then_some(unit));
        // A last line without its end is handed on when the log is at its end.
        let pieces = log.map(Some).chain(stream::iter([None]));
        streams.push(pieces.map(move |piece| match piece {
            Some(piece) => piece.map(|piece| lines.take(&piece)),
            None => Ok(lines.rest()),
        }));
    }
    // One after the other when they end, all at once when they are followed.
    let together = if args.follow { streams.len() } else { 1 };
    let mut texts = stream::iter(streams).flatten_unordered(together.max(1));
    while let Some(text) = texts.next().await {
        let text = text.map_err(|error| Failure::of(&error))?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(&text).and_then(|()| stdout.flush()) {
            // Whoever read has seen enough: `mesh logs web | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(|error| Failure::doing("writing the log", &error))?,
        }
    }
    Ok(OK.into())
}

/// Cuts what a unit wrote into lines, and says of each which unit it is from.
#[derive(Debug)]
struct Lines {
    /// None: the bytes are handed on as they come.
    unit: Option<Name>,
    open: Vec<u8>,
}

impl Lines {
    fn new(unit: Option<Name>) -> Self {
        Self {
            unit,
            open: Vec::new(),
        }
    }

    /// The lines that end in this piece.
    fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let Some(unit) = &self.unit else {
            return piece.to_vec();
        };
        let mut text = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend(part);
            if part.ends_with(b"\n") {
                text.extend(format!("{unit}: ").bytes());
                text.append(&mut self.open);
            }
        }
        text
    }

    /// A last line that has no end.
    fn rest(&mut self) -> Vec<u8> {
        if self.open.is_empty() {
            return Vec::new();
        }
        self.take(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn lines_of_several_units_say_whose_they_are_however_they_come() {
        let mut lines = Lines::new(Some(name("app")));
        assert_eq!(lines.take(b"one\ntw"), b"app: one\n");
        assert_eq!(lines.take(b"o\n\nthr"), b"app: two\napp: \n");
        assert_eq!(lines.rest(), b"app: thr\n");
        assert_eq!(lines.rest(), b"");
    }

    #[test]
    fn the_bytes_of_one_unit_are_left_as_they_are() {
        let mut lines = Lines::new(None);
        assert_eq!(lines.take(b"\xff\x00tw"), b"\xff\x00tw");
        assert_eq!(lines.rest(), b"");
    }
}
