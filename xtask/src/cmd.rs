//! Runs a process: prints it, and names it and its directory when it fails.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;

/// A process to run.
#[derive(Debug)]
pub(crate) struct Cmd(Command);

/// What a process left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whether it exited with 0.
    pub(crate) ok: bool,
    /// What it wrote.
    pub(crate) output: String,
}

impl Cmd {
    /// `program` in `dir`, without standard input.
    pub(crate) fn new(program: impl AsRef<OsStr>, dir: &Path) -> Self {
        let mut command = Command::new(program);
        command.current_dir(dir).stdin(Stdio::null());
        Self(command)
    }

    /// The cargo that runs us.
    pub(crate) fn cargo(root: &Path) -> Self {
        Self::new(
            std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            root,
        )
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// Adds arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it, its output going where ours goes.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        self.announce();
        // Standard output carries results only; what tools say is progress.
        self.0.stdout(std::io::stderr());
        let status = self
            .0
            .status()
            .map_err(|error| self.failed(&error.to_string()))?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(&status.to_string()))
        }
    }

    /// Runs it in our place, as the same process: its results are ours, and so are its signals.
    pub(crate) fn hand_over(mut self) -> Result<(), Failure> {
        let error = self.0.exec();
        Err(self.failed(&error.to_string()))
    }

    /// Runs it and gives its standard output; says nothing.
    pub(crate) fn read(mut self) -> Result<String, Failure> {
        let output = self
            .0
            .output()
            .map_err(|error| self.failed(&error.to_string()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(self.failed(&format!("{}: {}", output.status, text.trim())))
        }
    }

    /// Runs it and gives each line of its standard output to `each`, whose first failure is ours.
    pub(crate) fn results(
        mut self,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.announce();
        let mut child = self
            .0
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.failed(&error.to_string()))?;
        let mut outcome = Ok(());
        for line in child
            .stdout
            .take()
            .into_iter()
            .flat_map(|output| BufReader::new(output).lines())
        {
            // The rest is read all the same: a full pipe would stop the process.
            let line = line?;
            outcome = outcome.and_then(|()| each(&line));
        }
        let status = child.wait()?;
        if !status.success() {
            return Err(self.failed(&status.to_string()));
        }
        outcome
    }

    /// Runs it, shows each line of its output on standard error, and keeps them.
    ///
    /// Both streams in one: cargo names each test binary on one and its tests on the other.
    pub(crate) fn watch(mut self) -> Result<Finished, Failure> {
        self.announce();
        let (reader, writer) = std::io::pipe()?;
        self.0.stdout(writer.try_clone()?).stderr(writer);
        let mut child = self
            .0
            .spawn()
            .map_err(|error| self.failed(&error.to_string()))?;
        // The command holds the other ends of the pipe, which would then never close.
        drop(self);
        let mut output = String::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            eprintln!("{line}");
            output.push_str(&line);
            output.push('\n');
        }
        Ok(Finished {
            ok: child.wait()?.success(),
            output,
        })
    }

    fn announce(&self) {
        eprintln!("$ {}", self.line());
    }

    fn line(&self) -> String {
        let mut line = self.0.get_program().to_string_lossy().into_owned();
        for arg in self.0.get_args() {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    fn failed(&self, why: &str) -> Failure {
        let dir = self.0.get_current_dir().unwrap_or_else(|| Path::new("."));
        format!("`{}` in {}: {why}", self.line(), dir.display()).into()
    }
}
