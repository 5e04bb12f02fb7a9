//! Images: missing, imported with progress, too big for the disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use mesh_runtime::{Capability, Runtime as _, RuntimeError};

use crate::conformance::bed::{Bed as _, name, said, settle};
use crate::host::{on_a_bed, on_a_daemon};

#[test]
fn an_image_that_is_missing_is_named_with_what_to_do() {
    on_a_bed(async |bed| {
        let engine = bed.engine().await;
        let web = settle(&*engine, "shop.web").await;
        let mut unit = bed.unit("app", &["sleep"]);
        unit.image = Some("mesh-test/none:1".to_owned());
        let error = engine.create_unit(&web, &unit).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no image `mesh-test/none:1`");
        assert_eq!(error.hint(), Some("pull it, or import it"));
        let error = engine.status(&web, &unit.name).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::NotFound { kind: "unit", .. }),
            "{error:?}"
        );
        unit.image = None;
        let error = engine.create_unit(&web, &unit).await.unwrap_err();
        assert!(
            matches!(error, RuntimeError::Unsupported { .. }),
            "{error:?}"
        );
    });
}

#[test]
fn a_registry_that_is_away_is_told_in_the_daemons_words() {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        // Port 1 of the daemon's own loopback.
        let image = "127.0.0.1:1/web:1";
        let error = engine.pull(image, &mut |_| {}).await.unwrap_err();
        assert!(error.to_string().contains(image), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("connection refused"), "{cause}");
    });
}

#[test]
fn a_root_file_system_becomes_an_image_as_it_is() {
    on_a_daemon(None, async |bed| {
        let root = bed.path("rootfs");
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/conf"), "value").unwrap();
        fs::set_permissions(root.join("etc/conf"), fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(root.join("etc/conf"), Some(1337), Some(1338)).unwrap();
        symlink("etc/conf", root.join("link")).unwrap();
        let engine = bed.open("mesh").await.unwrap();
        let mut steps = Vec::new();
        engine
            .import(crate::host::IMAGE, &root, &mut |step| {
                steps.push(step.to_string())
            })
            .await
            .unwrap();
        assert!(!steps.is_empty());
        let web = settle(&engine, "shop.web").await;
        let mut unit = bed.unit("cat", &["cat", "/link"]);
        unit.capabilities = [Capability::DacOverride].into();
        let text = said(&engine, &web, &unit).await;
        assert_eq!(text, "640 1337:1338 value\n");
        engine.remove_all().await.unwrap();
        assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");
    });
}

#[test]
fn a_directory_that_is_not_there_makes_no_image() {
    on_a_daemon(None, async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        let imported = engine
            .import("mesh-test/x", bed.path("none"), &mut |_| {})
            .await;
        let error = imported.unwrap_err();
        assert!(matches!(error, RuntimeError::System { .. }), "{error:?}");
        assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");
    });
}

#[test]
fn a_full_disk_is_told_as_such_and_leaves_nothing() {
    on_a_daemon(Some("size=8m"), async |bed| {
        let engine = bed.open("mesh").await.unwrap();
        fs::write(bed.path("rootfs/big"), vec![7; 16 << 20]).unwrap();
        let error = bed.import(&engine).await.unwrap_err();
        assert!(matches!(error, RuntimeError::DiskFull { .. }), "{error:?}");
        assert!(error.hint().is_some());
        assert_eq!(bed.docker(&["images", "--all", "--quiet"]), "");

        // What fits still works, and a unit that fills the rest fails by itself alone.
        fs::remove_file(bed.path("rootfs/big")).unwrap();
        bed.import(&engine).await.unwrap();
        let web = settle(&engine, "shop.web").await;
        let text = said(&engine, &web, &bed.unit("print", &["print", "fits"])).await;
        assert_eq!(text, "fits\n");
        assert_eq!(
            engine.group(&web).await.unwrap().spec.name,
            name("shop.web")
        );
    });
}
