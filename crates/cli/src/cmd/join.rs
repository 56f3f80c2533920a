//! `naka join TOKEN`: use a mesh that runs elsewhere.
//!
//! The token names the control plane's addresses and its root, so the first connection is verified already. A join
//! token lets `naka run` get an identity; an API token lets the other commands talk to the API.

use crate::args;
use crate::contexts::{Context, Contexts};
use crate::exit::{Exit, Outcome};
use crate::home::Home;
use crate::out;
use anyhow::Context as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use naka_types::token::{Token, TokenKind};
use std::time::Duration;

/// Runs `naka join`.
pub(crate) async fn run(args: &args::Join) -> Outcome {
    let token = Token::parse(&args.token).map_err(|error| Exit::usage(error.to_string()))?;
    let home = Home::from_env()?;
    let mut contexts = Contexts::open(&home)?;
    let name = args.name.clone().unwrap_or_else(|| {
        let host = token.addresses.first().map_or("mesh", String::as_str);
        host.rsplit_once(':')
            .map_or(host, |(host, _)| host)
            .trim_matches(['[', ']'])
            .to_owned()
    });
    let mut context = contexts.choose(Some(&name)).unwrap_or_default();
    if !context.root_sha256.is_empty() && context.root_sha256 != token.ca_sha256 {
        return Err(Exit::failed(format!(
            "context {name} is another mesh; give --name"
        )));
    }
    let root_pem = root(&token).await?;
    context = Context {
        name: name.clone(),
        mesh: name.clone(),
        root_pem,
        root_sha256: token.ca_sha256.clone(),
        ..context
    };
    match token.kind {
        TokenKind::Join => {
            context.xds.clone_from(&token.addresses);
            context.join_token = Some(args.token.trim().to_owned());
        }
        TokenKind::Api => {
            context.server = format!(
                "https://{}",
                token.addresses.first().cloned().unwrap_or_default()
            );
            context.token = args.token.trim().to_owned();
        }
    }
    contexts.put(&context);
    contexts.make_current(&name);
    contexts.save()?;
    out::line(format!("context {name} is current"));
    Ok(())
}

/// The root certificate, from a connection that is verified by the token's hash of it.
async fn root(token: &Token) -> Outcome<String> {
    let mut last = Exit::failed("the token names no address");
    for address in &token.addresses {
        match root_at(address, &token.ca_sha256).await {
            Ok(pem) => return Ok(pem),
            Err(error) => last = Exit::failed(format!("{address}: {error:#}")),
        }
    }
    Err(last)
}

async fn root_at(address: &str, ca_sha256: &str) -> anyhow::Result<String> {
    let config = naka_identity::tls::token_client_config(ca_sha256, &[])?;
    let connect = tokio::net::TcpStream::connect(address);
    let stream = tokio::time::timeout(Duration::from_secs(5), connect).await??;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(naka_identity::tls::control_name(), stream)
        .await?;
    let (_, session) = stream.get_ref();
    let root = session
        .peer_certificates()
        .into_iter()
        .flatten()
        .find(|certificate| naka_identity::sha256_hex(certificate) == ca_sha256)
        .context("the control plane does not show its root")?;
    let coded = STANDARD.encode(root);
    let lines: Vec<&str> = coded
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    Ok(format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    ))
}
