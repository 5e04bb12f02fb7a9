//! What injection refuses of a task group: ways past the proxy, networks that the mode is not for,
//! names that clash.

use mesh_model::Problems;

use super::group::GroupPlan;
use super::policy::is_proxy_user;
use super::service::ready_service;
use super::task::Driver;
use super::{CNI_KEY, misspelt};
use crate::model::Task;
use crate::refusal::Refusals;
use crate::sidecar::{Mode, Sidecar};

impl GroupPlan<'_> {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        self.check_spelling(refusals);
        self.check_network(refusals);
        let tasks = self.group.tasks.items();
        if tasks.is_empty() {
            refusals.add(&self.path, "the group has no tasks", "");
        }
        for (index, task) in tasks.iter().enumerate() {
            let path = match task.name.text() {
                "" => format!("{}.Tasks[{index}]", self.path),
                name => format!("{}.Tasks[{name}]", self.path),
            };
            self.check_task(task, &path, refusals);
        }
        self.check_services(refusals);
        if self.driver == Driver::Exec2 && self.mode != Mode::Explicit {
            refusals.add(
                &self.path,
                "exec2 gives the proxy a user that is not known in advance, so that rules cannot let it pass",
                "use mode `explicit`, or another driver",
            );
        }
    }

    fn check_spelling(&self, refusals: &mut Refusals) {
        misspelt(&self.group, &self.path, refusals);
        for network in self.group.networks.items() {
            misspelt(network, &format!("{}.Networks[0]", self.path), refusals);
        }
        for task in self.group.tasks.items() {
            misspelt(
                task,
                &format!("{}.Tasks[{}]", self.path, task.name.text()),
                refusals,
            );
        }
        let of_tasks = self
            .group
            .tasks
            .items()
            .iter()
            .flat_map(|task| task.services.items());
        for service in self.group.services.items().iter().chain(of_tasks) {
            let path = format!("{}.Services[{}]", self.path, service.name.text());
            misspelt(service, &path, refusals);
            for check in service.checks.items() {
                misspelt(
                    check,
                    &format!("{path}.Checks[{}]", check.name.text()),
                    refusals,
                );
            }
        }
    }

    fn check_network(&self, refusals: &mut Refusals) {
        let path = format!("{}.Networks", self.path);
        let networks = self.group.networks.items();
        let network = match networks {
            [] if self.mode.is_host() => return,
            [network] => network,
            [] => {
                let hint = "add `network { mode = \"bridge\" }` to the group";
                refusals.add(path, "the group has no network of its own", hint);
                return;
            }
            _ => {
                let reason = format!("the group has {} networks", networks.len());
                refusals.add(path, reason, "leave one: Nomad takes no more either");
                return;
            }
        };
        let mode = network.mode();
        let path = format!("{path}[0].Mode");
        let bridge = "write `mode = \"bridge\"`";
        match self.mode {
            _ if mode == "none" => {
                refusals.add(path, "`none` is a network without a way out", bridge);
            }
            Mode::Cni => match mode.strip_prefix("cni/") {
                Some(name) if name == self.options.cni_network => {}
                Some(name) if self.options.other_cni_networks.contains(name) => {}
                Some(name) => refusals.add(
                    path,
                    format!("nobody said that the chain of `{name}` has `mesh-cni` in it"),
                    "append it there and say --cni-network, or use mode `guard` or `explicit`",
                ),
                None if mode == "bridge" => {}
                None => refusals.add(
                    path,
                    format!("mode `cni` needs a network of the group's own, found `{mode}`"),
                    format!("{bridge}, or use mode `explicit`, `host-exclusive` or `host-uid`"),
                ),
            },
            Mode::Guard if !network.has_namespace() => refusals.add(
                path,
                format!("mode `guard` needs a network of the group's own, found `{mode}`"),
                format!("{bridge}, or use mode `explicit`, `host-exclusive` or `host-uid`"),
            ),
            Mode::HostExclusive | Mode::HostUid if mode != "host" => refusals.add(
                path,
                format!(
                    "mode `{}` is for the host's network, found `{mode}`",
                    self.mode
                ),
                "use mode `cni`, `guard` or `explicit`",
            ),
            _ => {}
        }
        for port in network
            .ports()
            .filter(|port| port.label.text().starts_with("mesh_"))
        {
            let path = format!("{}.Networks[0].Ports[{}]", self.path, port.label.text());
            refusals.add(
                path,
                "labels that begin with `mesh_` are the mesh's",
                "rename it",
            );
        }
        let args = network.cni.get().and_then(|cni| cni.args.get());
        for key in args.into_iter().flat_map(|args| args.keys()) {
            let path = || format!("{}.Networks[0].CNI.Args[{key}]", self.path);
            if self.mode == Mode::Cni && key.eq_ignore_ascii_case(CNI_KEY) {
                refusals.add(path(), "the argument is injection's to set", "take it out");
            }
            if self.mode == Mode::Cni && key == "IgnoreUnknown" {
                let reason = "it decides whether plugins of the chain take our argument";
                refusals.add(path(), reason, "take it out");
            }
        }
    }

    fn check_task(&self, task: &Task, path: &str, refusals: &mut Refusals) {
        let name = task.name.text();
        if name.starts_with("mesh-") {
            let reason = "names of tasks that begin with `mesh-` are the mesh's";
            refusals.add(format!("{path}.Name"), reason, "rename it");
        }
        let user = task.user.text();
        if is_proxy_user(user) {
            refusals.add(
                format!("{path}.User"),
                format!("`{user}` is the proxy's: nothing that the task sends would be captured"),
                "run it as another user and group than 1337",
            );
        }
        if task
            .resources
            .get()
            .is_some_and(|found| !found.networks.items().is_empty())
        {
            refusals.add(
                format!("{path}.Resources.Networks"),
                "a network of the task alone is not the group's",
                "move its ports to the network of the group",
            );
        }
        if self.mode.is_host() && self.users().is_none() {
            refusals.add(
                format!("{path}.User"),
                "rules in the host's network tell tasks apart by the number of their user, and some task has none",
                "give every task a user by number other than 0, or name them in `mesh.include_uids`",
            );
        }
        self.check_escape(task, path, refusals);
    }

    /// A container that is not in the group's network goes round the proxy.
    fn check_escape(&self, task: &Task, path: &str, refusals: &mut Refusals) {
        if !matches!(task.driver.text(), "docker" | "podman") {
            return;
        }
        let config = task.config.get();
        let said = config.and_then(|config| config.get("network_mode"));
        let said = said.and_then(|value| value.as_str()).unwrap_or_default();
        let path = format!("{path}.Config.network_mode");
        if self.has_namespace {
            if !said.is_empty() {
                let reason =
                    format!("`{said}` takes the task out of the group's network, past the proxy");
                refusals.add(path, reason, "take it out");
            }
        } else if said != "host" {
            refusals.add(
                path,
                "the container has a network of its own, which is not the proxy's",
                "give the group `network { mode = \"bridge\" }`, or write `network_mode = \"host\"`",
            );
        }
    }

    fn check_services(&self, refusals: &mut Refusals) {
        let group = self.group.services.items().iter().enumerate();
        let group =
            group.map(|(index, service)| (format!("{}.Services[{index}]", self.path), service));
        let tasks = self.group.tasks.items().iter().flat_map(|task| {
            let services = task.services.items().iter().enumerate();
            services.map(move |(index, service)| {
                let name = task.name.text();
                (
                    format!("{}.Tasks[{name}].Services[{index}]", self.path),
                    service,
                )
            })
        });
        let mut first = None;
        for (path, service) in group.chain(tasks) {
            let provider = match service.provider.text() {
                "" => "consul",
                provider => provider,
            };
            let wanted = *first.get_or_insert(provider);
            if provider != wanted {
                refusals.add(
                    format!("{path}.Provider"),
                    format!("`{provider}` beside `{wanted}`: Nomad takes one provider in a group"),
                    "name the same in all services",
                );
            }
            if service.connect.get().is_some() && !self.options.allow_connect {
                refusals.add(
                    format!("{path}.Connect"),
                    "the service is in Consul's mesh",
                    "take the block out, or say --allow-connect",
                );
            }
            if service.name.text() == ready_service(self.group.name.text()) {
                refusals.add(
                    format!("{path}.Name"),
                    "the name is the mesh's",
                    "rename it",
                );
            }
        }
    }

    pub(super) fn check_labels(&self, sidecar: &Sidecar, refusals: &mut Refusals) {
        let mut problems = Problems::default();
        mesh_model::label::validate(&sidecar.labels, "labels", &mut problems);
        for problem in problems.0 {
            let reason = format!("`{}` is not {}", problem.value, problem.expected);
            let hint = "look at `mesh.labels` and at the meta of the services";
            refusals.add(format!("{}.{}", self.path, problem.path), reason, hint);
        }
    }
}
