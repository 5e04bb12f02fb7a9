//! The settings of `istio-iptables`: environment, then flags, each value with its origin.

use std::collections::BTreeMap;

use crate::import::arguments::{Flag, Takes, split};
use crate::import::value::{one, switch};
use crate::import::{Remark, RemarkKind};
use crate::{Problem, Problems};

/// What was set, by the long names of the flags, and what is remarkable about it.
#[derive(Debug, Default)]
pub(super) struct Settings {
    set: BTreeMap<&'static str, Setting>,
    pub(super) remarks: Vec<Remark>,
    pub(super) problems: Problems,
}

/// A value with its origin: a flag as it was written, or a variable.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) origin: String,
    pub(super) value: String,
}

const FLAGS: &[Flag] = &[
    value("envoy-port", 'p'),
    value("inbound-capture-port", 'z'),
    value("inbound-tunnel-port", 'e'),
    value("proxy-uid", 'u'),
    value("proxy-gid", 'g'),
    value("istio-inbound-interception-mode", 'm'),
    value("istio-inbound-tproxy-mark", 't'),
    value("istio-inbound-tproxy-route-table", 'r'),
    value("istio-inbound-ports", 'b'),
    value("istio-local-exclude-ports", 'd'),
    value("istio-exclude-interfaces", 'c'),
    value("istio-service-cidr", 'i'),
    value("istio-service-exclude-cidr", 'x'),
    value("istio-outbound-ports", 'q'),
    value("istio-local-outbound-ports-exclude", 'o'),
    value("kube-virt-interfaces", 'k'),
    switched("redirect-dns", None),
    switched("capture-all-dns", None),
    switched("drop-invalid", None),
    switched("dual-stack", None),
    Flag {
        long: "network-namespace",
        letter: None,
        takes: Takes::Value,
    },
    switched("dry-run", Some('n')),
    switched("cleanup-only", None),
    switched("skip-rule-apply", None),
    switched("run-validation", None),
    switched("native-nftables", None),
    switched("force-legacy-iptables", None),
    Flag {
        long: "force-iptables-binary",
        letter: None,
        takes: Takes::Value,
    },
    // What has no counterpart; see `IGNORED`.
    Flag {
        long: "iptables-probe-port",
        letter: None,
        takes: Takes::Value,
    },
    Flag {
        long: "probe-timeout",
        letter: None,
        takes: Takes::Value,
    },
    switched("reconcile", None),
    switched("force-apply", None),
    switched("cni-mode", None),
    switched("host-nsenter-exec", None),
    switched("iptables-trace-logging", None),
    switched("restore-format", Some('f')),
];

/// Flags that say how the tool works, not what becomes of a packet, and why they are not needed.
const IGNORED: &[(&str, &str)] = &[
    (
        "iptables-probe-port",
        "the probe finds free ports by itself",
    ),
    ("probe-timeout", "the probe has a patience of its own"),
    (
        "reconcile",
        "other rules of the instance are always replaced, in one transaction",
    ),
    (
        "force-apply",
        "rules that are there already need not be set again",
    ),
    ("cni-mode", "no lock of the host is taken"),
    (
        "host-nsenter-exec",
        "namespaces are entered without another program",
    ),
    (
        "iptables-trace-logging",
        "`explain` and the counters of `status` tell what rules do",
    ),
    (
        "restore-format",
        "`plan --as iptables` prints the form of iptables-restore",
    ),
];

/// Variables besides those named like the flags; they win over those.
const VARIABLES: &[(&str, &str)] = &[
    ("ISTIO_META_DNS_CAPTURE", "redirect-dns"),
    ("INVALID_DROP", "drop-invalid"),
    ("ISTIO_DUAL_STACK", "dual-stack"),
];

/// Variables without a flag.
pub(super) const OWNER_GROUPS: &str = "ISTIO_OUTBOUND_OWNER_GROUPS";
pub(super) const OWNER_GROUPS_EXCLUDED: &str = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE";
pub(super) const LOOPBACK: &str = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR";
pub(super) const ENVOY_USER: &str = "ENVOY_USER";
const VARIABLES_ALONE: &[&str] = &[OWNER_GROUPS, OWNER_GROUPS_EXCLUDED, LOOPBACK, ENVOY_USER];

// === impl Settings ===

impl Settings {
    /// What `environment` and then `arguments` set. Variables that are not the tool's are nothing.
    pub(super) fn read<S, K, V>(
        arguments: &[S],
        environment: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        S: AsRef<str>,
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let environment: BTreeMap<String, String> = environment
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()))
            .collect();
        let mut settings = Self::default();
        let named = FLAGS
            .iter()
            .filter(|flag| flag.long != "envoy-port")
            .map(|flag| (variable(flag.long), flag.long));
        let others = VARIABLES.iter().chain(&[]).copied();
        let others = others.map(|(name, long)| (name.to_owned(), long));
        let alone = VARIABLES_ALONE
            .iter()
            .map(|name| ((*name).to_owned(), *name));
        for (name, key) in named.chain(others).chain(alone) {
            if let Some(value) = environment.get(&name) {
                settings.insert(key, name, value.clone());
            }
        }
        let mut problems = Problems::default();
        for given in split(FLAGS, arguments, &mut problems) {
            if let Some(flag) = FLAGS.get(given.flag) {
                settings.insert(flag.long, given.written, given.value);
            }
        }
        settings.problems = problems;
        settings.remark_ignored();
        settings
    }

    /// A setting, unless it is not set or empty.
    pub(super) fn get(&self, key: &str) -> Option<Setting> {
        let setting = self.set.get(key)?;
        Some(setting.clone()).filter(|setting| !setting.value.is_empty())
    }

    /// A setting, also an empty one.
    pub(super) fn get_even_empty(&self, key: &str) -> Option<Setting> {
        self.set.get(key).cloned()
    }

    /// A setting, or what the tool takes if it is not set.
    pub(super) fn get_or(&self, key: &'static str, default: &str) -> Setting {
        self.get(key).unwrap_or_else(|| Setting {
            origin: format!("--{key}"),
            value: default.to_owned(),
        })
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&mut self, key: &str) -> bool {
        self.get(key)
            .and_then(|setting| self.read_one(&setting, switch))
            .unwrap_or(false)
    }

    /// The value of a setting, read by `read`; if it refuses, that is a problem of the setting's.
    pub(super) fn read_one<T>(
        &mut self,
        setting: &Setting,
        read: impl Fn(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        one(&setting.origin, &setting.value, &mut self.problems, read)
    }

    /// Notes what is not as the tool would do it.
    pub(super) fn remark(&mut self, option: &str, kind: RemarkKind, text: &'static str) {
        self.remarks.push(Remark {
            option: option.to_owned(),
            kind,
            text,
        });
    }

    fn insert(&mut self, key: &'static str, origin: String, value: String) {
        self.set.insert(key, Setting { origin, value });
    }

    fn remark_ignored(&mut self) {
        for (key, text) in IGNORED {
            if let Some(setting) = self.get(key) {
                self.remark(&setting.origin, RemarkKind::Ignored, text);
            }
        }
    }
}

const fn value(long: &'static str, letter: char) -> Flag {
    Flag {
        long,
        letter: Some(letter),
        takes: Takes::Value,
    }
}

const fn switched(long: &'static str, letter: Option<char>) -> Flag {
    Flag {
        long,
        letter,
        takes: Takes::Switch,
    }
}

/// The variable that is named like a flag.
fn variable(long: &str) -> String {
    long.replace('-', "_").to_ascii_uppercase()
}
