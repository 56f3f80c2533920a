//! Proxy mode: the variables that send a program's calls to its sidecar (design §3, way 2).
//!
//! `ALL_PROXY` is never set: it would catch protocols a HTTP proxy cannot carry. `NODE_USE_ENV_PROXY` makes Node 24
//! and newer read the variables; Java reads none of them, so it gets system properties.

use std::net::SocketAddr;
use std::process::Command;

/// Name and password of the credential, joined by `:`.
pub(crate) fn credential(secret: &str) -> String {
    format!("naka:{secret}")
}

/// The variables. `java` is what JAVA_TOOL_OPTIONS holds already.
fn variables(
    outbound: SocketAddr,
    credential: Option<&str>,
    java: Option<&str>,
) -> Vec<(&'static str, String)> {
    let url = match credential {
        Some(credential) => format!("http://{credential}@{outbound}"),
        None => format!("http://{outbound}"),
    };
    let (host, port) = (outbound.ip(), outbound.port());
    let options = format!(
        "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port} -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
    );
    let java = match java.map(str::trim) {
        None | Some("") => options,
        Some(given) => format!("{given} {options}"),
    };
    vec![
        ("http_proxy", url.clone()),
        ("HTTP_PROXY", url.clone()),
        ("https_proxy", url.clone()),
        ("HTTPS_PROXY", url.clone()),
        ("grpc_proxy", url),
        ("no_proxy", "localhost,127.0.0.1,::1".to_owned()),
        ("NODE_USE_ENV_PROXY", "1".to_owned()),
        ("JAVA_TOOL_OPTIONS", java),
    ]
}

/// Puts the variables into a program's environment.
pub(crate) fn lead(run: &mut Command, outbound: SocketAddr, credential: Option<&str>) {
    let java = std::env::var("JAVA_TOOL_OPTIONS").ok();
    run.envs(variables(outbound, credential, java.as_deref()));
    for name in REMOVED {
        run.env_remove(name);
    }
}

/// Variables to take away: they would send calls past the sidecar.
const REMOVED: &[&str] = &["ALL_PROXY", "all_proxy", "NO_PROXY"];

#[cfg(test)]
mod tests {
    use super::variables;

    #[test]
    fn java_options_are_appended_and_all_proxy_is_not_set() {
        let set = variables(
            "127.0.0.1:15001".parse().unwrap(),
            Some("naka:s"),
            Some("-Xmx64m"),
        );
        let get = |name: &str| {
            set.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(get("http_proxy"), Some("http://naka:s@127.0.0.1:15001"));
        assert!(
            get("JAVA_TOOL_OPTIONS")
                .unwrap()
                .starts_with("-Xmx64m -Dhttp.proxyHost=127.0.0.1")
        );
        assert!(
            set.iter()
                .all(|(name, _)| !name.eq_ignore_ascii_case("all_proxy"))
        );
    }
}
