//! What stands where an application is to run: the same, or another of the same name.

use mesh_runtime::inject::APP_UNIT;
use mesh_runtime::{Application, Removal, Runtime, RuntimeError, UnitSpec};

use crate::engine;
use crate::exit::{Failure, REFUSED};

/// What to do about a workload that stands in the way.
pub(super) const HINT: &str = "--replace removes it first; `mesh rm` removes it alone";

/// Removes the workload of the same name if that was asked for.
///
/// # Errors
///
/// When it was not, and the application that runs is another one: with everything that differs;
/// and when it is no workload at all.
pub(super) async fn make_room(
    engine: &dyn Runtime,
    application: &Application,
    replace: bool,
) -> Result<(), Failure> {
    let group = application.group_name();
    match engine.group(&group).await {
        Ok(there) if engine::is_control_plane(&there.spec) => {
            let message = format!("{group} is a part of the control plane");
            return Err(Failure::new(message)
                .with_code(REFUSED)
                .with_hint("give the workload another name or namespace"));
        }
        Ok(_) | Err(RuntimeError::NotFound { .. }) => {}
        Err(error) => return Err(engine::failed(&error)),
    }
    if replace {
        let removed = engine.remove_group(&group).await;
        if removed.map_err(|error| Failure::of(&error))? == Removal::Removed {
            eprintln!("{group}: removed");
        }
        return Ok(());
    }
    let before = match engine.unit(&group, &engine::name(APP_UNIT)?).await {
        Ok(before) => before,
        Err(RuntimeError::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(Failure::of(&error)),
    };
    let differences = differences(&before, application);
    if differences.is_empty() {
        return Ok(());
    }
    let message = format!("{group} is there, with {}", differences.join(", "));
    Err(Failure::new(message).with_code(REFUSED).with_hint(HINT))
}

/// What the application that is there has otherwise; variables by their names only, since their
/// values may be secret.
fn differences(before: &UnitSpec, now: &Application) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, before: String, now: String| {
        if before != now {
            found.push(format!("{what} `{before}` instead of `{now}`"));
        }
    };
    let words = |command: &[String]| command.join(" ");
    compare("command", words(&before.command), words(&now.command));
    let user = |uid: u32, gid: u32| format!("{uid}:{gid}");
    compare("user", user(before.uid, before.gid), user(now.uid, now.gid));
    let path = |path: &std::path::Path| path.display().to_string();
    compare(
        "working directory",
        path(&before.working_directory),
        path(&now.working_directory),
    );
    let restart = |policy: mesh_runtime::RestartPolicy| format!("{policy:?}");
    compare(
        "restart policy",
        restart(before.restart),
        restart(now.restart),
    );
    let environment = now.whole_environment();
    let names = before.environment.keys().chain(environment.keys());
    let other = names.filter(|name| before.environment.get(*name) != environment.get(*name));
    let other: std::collections::BTreeSet<_> = other.map(String::as_str).collect();
    if !other.is_empty() {
        let other: Vec<_> = other.into_iter().collect();
        found.push(format!("another environment ({})", other.join(", ")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run::application::testing::application;

    fn unit(application: &Application) -> UnitSpec {
        let mut unit = UnitSpec::new("app".parse().unwrap(), &application.command);
        unit.uid = application.uid;
        unit.gid = application.gid;
        unit.working_directory
            .clone_from(&application.working_directory);
        unit.restart = application.restart;
        unit.environment.clone_from(&application.environment);
        unit
    }

    #[test]
    fn everything_that_differs_is_named_and_no_value_of_a_variable() {
        let mut before = application(&["sleep", "60"]);
        before.environment = [("KEY".to_owned(), "hunter2".to_owned())].into();
        let unit = unit(&before);
        assert_eq!(differences(&unit, &before), [""; 0]);
        let mut now = application(&["sleep", "90"]);
        now.uid = 0;
        assert_eq!(
            differences(&unit, &now),
            [
                "command `sleep 60` instead of `sleep 90`",
                "user `65534:65534` instead of `0:65534`",
                "another environment (KEY)",
            ]
        );
    }
}
