//! What an application in an image gets from it: user, working directory, command.

use mesh_model::Mode;
use mesh_runtime::docker::ImageFacts;
use mesh_runtime::{Application, Capability, DockerEngine};

use crate::engine::{self, Engine};
use crate::exit::Failure;

/// Completes an application by its image, which is pulled if it is not there.
///
/// # Errors
///
/// When the engine cannot run what is asked for, with what it needs; when the image is not to be
/// had, and when it does not say what must be known.
pub(super) async fn settle(
    engine: &Engine,
    application: &mut Application,
    has_user: bool,
) -> Result<(), Failure> {
    if application.mode == Mode::Gateway {
        return Ok(());
    }
    let Some(engine) = engine.docker() else {
        return match (&application.image, application.command.is_empty()) {
            (Some(image), _) => Err(Failure::usage(format!(
                "the process engine has no images, and `{image}` is one"
            ))
            .with_hint(
                "`mesh up --engine docker` is for images; else say what to run: -- COMMAND",
            )),
            (None, true) => Err(Failure::usage("there is nothing to run")
                .with_hint("say what: -- COMMAND [ARGUMENTS]")),
            (None, false) => Ok(()),
        };
    };
    let Some(image) = application.image.clone() else {
        return Err(Failure::usage(
            "the Docker engine runs applications from images, and none is named",
        )
        .with_hint("name one: --image IMAGE; its own command runs unless you say -- COMMAND"));
    };
    let facts = get(engine, &image).await?;
    complete(application, &image, &facts, has_user)
}

async fn get(engine: &DockerEngine, image: &str) -> Result<ImageFacts, Failure> {
    let failed = |error| engine::failed(&error);
    if let Some(facts) = engine.image(image).await.map_err(failed)? {
        return Ok(facts);
    }
    eprintln!("{image}: not here, pulling it");
    engine
        .pull(image, &mut |progress| eprintln!("{progress}"))
        .await
        .map_err(failed)?;
    let facts = engine.image(image).await.map_err(failed)?;
    facts.ok_or_else(|| Failure::new(format!("the daemon pulled `{image}`, and it is not there")))
}

/// Takes from the image what nobody said.
fn complete(
    application: &mut Application,
    image: &str,
    facts: &ImageFacts,
    has_user: bool,
) -> Result<(), Failure> {
    application
        .working_directory
        .clone_from(&facts.working_directory);
    if application.command.is_empty() && facts.command.is_empty() {
        return Err(Failure::usage(format!("image `{image}` has no command"))
            .with_hint("say what to run: -- COMMAND [ARGUMENTS]"));
    }
    if !has_user {
        let (uid, gid) = user(&facts.user).ok_or_else(|| {
            Failure::usage(format!(
                "image `{image}` runs as `{}`, which is no numeric user and group",
                facts.user
            ))
            .with_hint("say which they are: --user UID:GID")
        })?;
        (application.uid, application.gid) = (uid, gid);
        application.capabilities = if uid == 0 {
            Capability::of_a_server()
        } else {
            std::collections::BTreeSet::new()
        };
    }
    Ok(())
}

/// The numeric user and group of an image. Names, and the group of a user that is alone, are in a
/// file of the image.
fn user(text: &str) -> Option<(u32, u32)> {
    if text.is_empty() {
        return Some((0, 0));
    }
    let (uid, gid) = text.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run::application::testing::application;

    fn facts(user: &str, command: &[&str]) -> ImageFacts {
        let mut facts = ImageFacts::default();
        facts.user = user.to_owned();
        facts.working_directory = "/srv".into();
        facts.command = command.iter().map(|word| (*word).to_owned()).collect();
        facts
    }

    #[test]
    fn what_nobody_said_is_the_images() {
        let mut web = application(&[]);
        complete(&mut web, "web:1", &facts("", &["/web"]), false).unwrap();
        assert_eq!((web.uid, web.gid), (0, 0));
        assert_eq!(web.capabilities, Capability::of_a_server());
        assert_eq!(web.working_directory, std::path::Path::new("/srv"));
        // The engine takes the command from the image itself.
        assert!(web.command.is_empty());

        let mut web = application(&["/other"]);
        complete(&mut web, "web:1", &facts("1000:100", &[]), false).unwrap();
        assert_eq!((web.uid, web.gid), (1000, 100));
        assert!(web.capabilities.is_empty());
    }

    #[test]
    fn a_user_that_was_given_is_kept_and_one_by_name_must_be_given() {
        let mut web = application(&["/web"]);
        let named = facts("nginx", &[]);
        let error = complete(&mut web, "web:1", &named, false).unwrap_err();
        assert!(error.to_string().contains("`nginx`"), "{error}");
        assert!(complete(&mut web, "web:1", &facts("1000", &[]), false).is_err());
        web.uid = 7;
        complete(&mut web, "web:1", &named, true).unwrap();
        assert_eq!(web.uid, 7);
        let nothing = complete(&mut application(&[]), "web:1", &facts("", &[]), false);
        assert!(nothing.unwrap_err().to_string().contains("no command"));
    }
}
