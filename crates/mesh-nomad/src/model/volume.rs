//! Dynamic host volumes and who claims them.

use std::collections::BTreeMap;

object! {
    /// A volume on one node.
    pub struct HostVolume {
        /// Its UUID.
        id: String = "ID",
        /// Its name, which groups ask for.
        name: String = "Name",
        /// The namespace.
        namespace: String = "Namespace",
        /// What makes it, as `mkdir`.
        plugin_id: String = "PluginID",
        /// The node.
        node_id: String = "NodeID",
        /// The node's pool.
        node_pool: String = "NodePool",
        /// Where it is on the node.
        host_path: String = "HostPath",
        /// `pending`, `ready`, `unavailable`.
        state: String = "State",
        /// How it may be attached.
        capabilities: Vec<VolumeCapability> = "RequestedCapabilities",
        /// Words to the plugin.
        parameters: BTreeMap<String, String> = "Parameters",
        /// Index of its creation.
        create_index: u64 = "CreateIndex",
        /// Index of its last change.
        modify_index: u64 = "ModifyIndex",
    }
}

object! {
    /// A way to attach a volume.
    #[derive(Eq)]
    pub struct VolumeCapability {
        /// As `single-node-single-writer`.
        access_mode: String = "AccessMode",
        /// As `file-system`.
        attachment_mode: String = "AttachmentMode",
    }
}

object! {
    /// The answer to the creation of a volume.
    pub struct VolumeCreated {
        /// The volume as it was stored.
        volume: HostVolume = "Volume",
        /// What to look at.
        warnings: String = "Warnings",
    }
}

object! {
    /// A group's claim to one sticky volume.
    #[derive(Eq)]
    pub struct VolumeClaim {
        /// Its UUID.
        id: String = "ID",
        /// The allocation.
        alloc_id: String = "AllocID",
        /// The volume.
        volume_id: String = "VolumeID",
        /// The volume's name.
        volume_name: String = "VolumeName",
        /// The job.
        job_id: String = "JobID",
        /// The group.
        task_group: String = "TaskGroupName",
    }
}
