//! A port of a service as people write it: `http:8080`, `grpc-admin:9000:19000`.

use mesh_model::{Problem, Protocol, WorkloadPort};

/// Reads NAME:PORT[:TARGET]. NAME begins with what is spoken there (http, http2, grpc, tcp, tls),
/// up to its first `-`, as Istio has it; TARGET is where the application listens, PORT unless given.
///
/// ```
/// let port = mesh_runtime::inject::parse_port("http-admin:80:8080").unwrap();
/// assert_eq!((port.number, port.target), (80, 8080));
/// ```
///
/// # Errors
///
/// What is wrong with it, with the part that is.
pub fn parse_port(text: &str) -> Result<WorkloadPort, Problem> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let wrong = || Problem::new("", text, "a port as NAME:PORT[:TARGET]");
    let number = parse_number(parts.next().ok_or_else(wrong)?)?;
    let target = parts.next().map(parse_number).transpose()?;
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(WorkloadPort {
        name: name.to_owned(),
        number,
        target: target.unwrap_or(number),
        inside: None,
        protocol: protocol(name)?,
    })
}

fn parse_number(text: &str) -> Result<u16, Problem> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Problem::new("", text, "a port between 1 and 65535")),
    }
}

fn protocol(name: &str) -> Result<Protocol, Problem> {
    match name.split_once('-').map_or(name, |(protocol, _)| protocol) {
        "http" => Ok(Protocol::Http),
        "http2" => Ok(Protocol::Http2),
        "grpc" => Ok(Protocol::Grpc),
        "tcp" => Ok(Protocol::Tcp),
        "tls" => Ok(Protocol::Tls),
        _ => Err(Problem::new(
            "",
            name,
            "a name of a port that begins with http, http2, grpc, tcp or tls",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_names_its_protocol_and_where_the_application_listens() {
        let port = |name: &str, number, target, protocol| WorkloadPort {
            name: name.to_owned(),
            number,
            target,
            inside: None,
            protocol,
        };
        let http = port("http", 80, 8080, Protocol::Http);
        assert_eq!(parse_port("http:80:8080"), Ok(http));
        let grpc = port("grpc-admin", 9000, 9000, Protocol::Grpc);
        assert_eq!(parse_port("grpc-admin:9000"), Ok(grpc));
        for (wrong, value) in [
            ("http", "http"),
            ("80", "80"),
            ("http:0", "0"),
            ("http:70000", "70000"),
            ("ftp:21", "ftp"),
            ("http:1:2:3", "http:1:2:3"),
            (":80", ""),
            ("httpx:1", "httpx"),
        ] {
            assert_eq!(parse_port(wrong).unwrap_err().value, value, "{wrong}");
        }
    }
}
