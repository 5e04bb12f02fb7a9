//! Calls of the plugin as Nomad makes them.

use mesh_netfilter::{DnsTarget, Ipv6, Policy, Port};
use mesh_nomad::cni::{Args, Call, Code, Command, decode, encode, from_consul, version};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A call with these variables and this standard input.
fn call(
    variables: &[(&str, &str)],
    input: &str,
) -> Result<Option<Call>, mesh_nomad::cni::CniError> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Call::read(variable, || Ok(input.to_owned()))
}

fn input(previous: &Value) -> String {
    json!({
        "cniVersion": "1.0.0", "name": "mesh", "type": "mesh-cni",
        "capabilities": { "portMappings": true },
        "runtimeConfig": { "portMappings": [
            { "ContainerPort": 8080, "HostIP": "", "HostPort": 23579, "Protocol": "tcp" },
        ] },
        "prevResult": previous,
    })
    .to_string()
}

#[test]
fn an_add_hands_on_what_came_before() {
    let config = encode(&Policy::sidecar());
    let args = format!("NOMAD_JOB_ID=web;mesh_CONFIG={config};IgnoreUnknown=true;IP=10.0.0.1");
    // Nobody would write it so, and nobody else is to notice that it went through us.
    let previous = r#"{ "x": 1.50,"ips":[{"address":"172.27.64.6/20"}], "cniVersion":"1.0.0"}"#;
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_ARGS", &args),
    ];
    let text = format!(r#"{{"name":"mesh","PREVresult": {previous} ,"CniVersion":"1.0.0"}}"#);
    let call = call(&variables, &text).unwrap().unwrap();
    assert_eq!(call.command, Command::Add);
    assert_eq!(call.version, "1.0.0");
    assert_eq!(call.policy().unwrap(), Some(Policy::sidecar()));
    assert_eq!(call.result(), Some(previous));
}

#[test]
fn a_group_that_says_nothing_is_none_of_ours() {
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_NETNS", "/run/netns/a"),
        ("CNI_ARGS", "NOMAD_JOB_ID=web"),
    ];
    let call = call(&variables, &input(&json!({}))).unwrap().unwrap();
    assert_eq!(call.policy().unwrap(), None);
}

#[test]
fn a_del_is_read_whatever_it_comes_with() {
    for (args, text) in [
        ("", "{}"),
        ("", ""),
        ("MESH_CONFIG=;MESH_CONFIG=", "no json"),
    ] {
        let call = call(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", args)], text)
            .unwrap()
            .unwrap();
        assert_eq!(call.command, Command::Del);
    }
}

#[test]
fn no_command_means_the_version_of_the_plugin_is_asked() {
    assert_eq!(call(&[], "").unwrap(), None);
    assert_eq!(
        version()["supportedVersions"],
        json!(["0.4.0", "1.0.0", "1.1.0"])
    );
}

#[test]
fn what_cannot_be_has_the_protocols_number() {
    let add = [("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/a")];
    let no_previous = r#"{"cniVersion":"1.0.0"}"#;
    let null_previous = r#"{"cniVersion":"1.0.0","prevResult":null}"#;
    let old = r#"{"cniVersion":"0.2.0","prevResult":{}}"#;
    for (variables, text, code) in [
        (&add[..], "[]", Code::Undecodable),
        (&add[..], no_previous, Code::InvalidConfig),
        (&add[..], null_previous, Code::InvalidConfig),
        (&add[..], r#"{"cniVersion":1}"#, Code::Undecodable),
        (&add[..], old, Code::IncompatibleVersion),
        (&add[..1], &input(&json!({})), Code::InvalidEnvironment),
        (&[("CNI_COMMAND", "JUMP")], "{}", Code::InvalidEnvironment),
    ] {
        let error = call(variables, text).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        let json = error.to_json("1.0.0");
        assert_eq!(json["code"], code as u32);
        assert!(!json["msg"].as_str().unwrap().is_empty());
    }
    let twice = Args::read("MESH_CONFIG=a;Mesh_Config=b").unwrap_err();
    assert_eq!(twice.code, Code::InvalidEnvironment);
    for text in ["%%%", "e30", ""] {
        assert_eq!(
            decode(text).unwrap_err().code,
            Code::InvalidEnvironment,
            "{text}"
        );
    }
}

#[test]
fn consuls_argument_is_understood() {
    let text = json!({
        "ConsulDNSIP": "10.0.0.2", "ConsulDNSPort": 8600, "ProxyUserID": "101",
        "ProxyInboundPort": 21000, "ProxyOutboundPort": 15001,
        "ExcludeInboundPorts": ["9901"], "ExcludeOutboundPorts": null,
        "ExcludeOutboundCIDRs": ["10.9.0.0/16"], "ExcludeUIDs": ["200"], "NetNS": "/run/netns/a",
    });
    let policy = from_consul(&text.to_string()).unwrap();
    assert_eq!(policy.inbound().unwrap().to, Port::new(21000).unwrap());
    assert_eq!(policy.ipv6(), Ipv6::Block);
    let target = DnsTarget::Forward("10.0.0.2:8600".parse().unwrap());
    assert_eq!(policy.dns().unwrap().to, target);
    let args = format!("CONSUL_IPTABLES_CONFIG={text};IgnoreUnknown=true");
    assert_eq!(Args::read(&args).unwrap().policy().unwrap(), Some(policy));
    let both = format!("{args};MESH_CONFIG={}", encode(&Policy::sidecar()));
    assert!(Args::read(&both).unwrap().policy().is_err());
    assert!(from_consul("{}").is_err());
}

proptest! {
    #[test]
    fn properties_of_arguments_order_and_case_do_not_matter(
        others in proptest::collection::vec("[A-Za-z_]{1,8}=[^;]{0,8}", 0..5),
        at in any::<prop::sample::Index>(),
        upper in any::<bool>(),
    ) {
        let config = encode(&Policy::sidecar());
        let key = if upper { "MESH_CONFIG" } else { "mesh_config" };
        let mut pairs = others;
        pairs.retain(|pair| !pair.to_ascii_lowercase().starts_with("mesh_con"));
        let at = at.index(pairs.len() + 1);
        pairs.insert(at, format!("{key}={config}"));
        let args = Args::read(&pairs.join(";")).unwrap();
        prop_assert_eq!(args.policy().unwrap(), Some(Policy::sidecar()));
    }

    #[test]
    fn properties_of_calls_nothing_makes_reading_panic(args in ".*", text in ".*", command in "ADD|DEL|CHECK|X") {
        let variables = [("CNI_COMMAND", command.as_str()), ("CNI_ARGS", &args), ("CNI_NETNS", "/n")];
        if let Ok(Some(call)) = call(&variables, &text) {
            let _policy = call.policy();
        }
    }
}
