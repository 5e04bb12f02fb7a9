//! Nomad's own service catalogue: names, and where they are served.

object! {
    /// The services of one namespace.
    pub struct NamespaceServices {
        /// The namespace.
        namespace: String = "Namespace",
        /// Its services.
        services: Vec<ServiceStub> = "Services",
    }
}

object! {
    /// A service in a list.
    #[derive(Eq)]
    pub struct ServiceStub {
        /// Its name.
        name: String = "ServiceName",
        /// The tags of all its registrations.
        tags: Vec<String> = "Tags",
    }
}

object! {
    /// One place at which a service is served.
    ///
    /// Nomad keeps neither the service's meta nor its health here: those of the job and of the
    /// allocation have to be joined to it.
    #[derive(Eq)]
    pub struct Registration {
        /// `_nomad-task-<allocation>-group-<group>-<service>-<port label>`, or the task's name in
        /// place of `group-<group>`.
        id: String = "ID",
        /// The service.
        service_name: String = "ServiceName",
        /// The namespace.
        namespace: String = "Namespace",
        /// The node.
        node_id: String = "NodeID",
        /// The node's datacenter.
        datacenter: String = "Datacenter",
        /// The job.
        job_id: String = "JobID",
        /// The allocation.
        alloc_id: String = "AllocID",
        /// Tags; `canary_tags` while the allocation is a canary.
        tags: Vec<String> = "Tags",
        /// The address.
        address: String = "Address",
        /// The port.
        port: u16 = "Port",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}
