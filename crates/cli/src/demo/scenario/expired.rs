//! The outage that service meshes are told about: the control plane's certificate ends, and nobody renewed it.
//!
//! It ends for real. The root's key is kept elsewhere, and the intermediate that signs is replaced by one that lives for
//! seconds: the control plane's own certificate cannot outlive it, nor be renewed, until somebody signs the next one. The
//! workloads have theirs from before. That it has ended is seen by a handshake, what goes on is counted by the programs.

use super::stage::{Answer, Ask, Caller, Stage};
use super::{Claim, Proof};
use crate::exit::Outcome;
use naka_types::finding::Finding;
use std::time::{Duration, Instant};

pub(super) const MANIFESTS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: payments}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - route: [{destination: {host: payment}}]
";

/// Long enough to be found, short enough to be waited for.
const SHORT: Duration = Duration::from_secs(8);
const LONG: Duration = Duration::from_hours(90 * 24);
const PAYMENT: &str = "payment-v1";
/// For what takes a moment.
const SOON: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(50);

pub(super) fn prove(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        match story(stage).await {
            Ok(claims) => claims,
            Err(exit) => vec![Claim::new("the story can be told", false, exit.message)],
        }
    })
}

async fn story(stage: &Stage) -> Outcome<Vec<Claim>> {
    let quiet = alarms(stage).await?;
    let believed = stage.handshake().await;
    stage.sign_again(SHORT).await?;
    let began = Instant::now();
    let warned = alarms(stage).await?;
    let warned_before = began.elapsed() < SHORT && ended(&stage.handshake().await).is_none();

    // Payments all the time, from before the end until after it.
    let before = stage.seen(PAYMENT).len();
    let mut payments: Vec<Answer> = Vec::new();
    let mut said = None;
    while said.is_none() && began.elapsed() < SHORT + SOON {
        payments.extend(stage.many(10, 2, "/pay", &[]).await);
        said = ended(&stage.handshake().await);
    }
    let then = alarms(stage).await?;
    payments.extend(stage.many(100, 4, "/pay", &[]).await);
    let served = stage.seen(PAYMENT).len() - before;
    let answered = payments.iter().filter(|one| one.status == 200).count();
    // No connection of before is left: the next payment wants a handshake of the two sidecars.
    let again = stage.restart_sidecar(PAYMENT).await && until_paid(stage).await;
    let newcomer = pays(stage, "late").await;

    let repaired = Instant::now();
    stage.sign_again(LONG).await?;
    let took = repaired.elapsed();
    let healed = until_healed(stage).await?;
    let joined = until_joined(stage).await;
    let words = |all: &[Finding]| {
        let codes: Vec<&str> = all.iter().map(|one| one.code.as_str()).collect();
        if codes.is_empty() {
            "none".to_owned()
        } else {
            codes.join(" ")
        }
    };
    let fix = warned
        .first()
        .map_or_else(String::new, |one| one.fix.clone());
    Ok(vec![
        Claim::new(
            "the alarm comes before the end, and says what to do",
            quiet.is_empty() && warned_before && words(&warned).contains("W913") && !fix.is_empty(),
            format!("at first {}, then {}: {fix}", words(&quiet), words(&warned)),
        ),
        Claim::new(
            "the control plane's certificate has ended, and nobody who verifies believes it",
            believed.is_ok() && said.is_some() && then.iter().any(|one| one.code == "E913"),
            format!(
                "a handshake: {}; naka check: {}",
                said.unwrap_or_default(),
                words(&then)
            ),
        ),
        Claim::new(
            "no payment fails before, during and after the end",
            answered == payments.len() && served == payments.len(),
            format!(
                "{answered} of {} answered, {served} at the program",
                payments.len()
            ),
        ),
        Claim::new(
            "a payment sidecar that is killed meanwhile comes back without the control plane",
            again,
            format!("it serves again: {again}"),
        ),
        Claim::new(
            "nobody new gets in meanwhile",
            newcomer.is_err(),
            newcomer.map_or_else(|why| why, |status| format!("status {status}")),
        ),
        Claim::new(
            "one command ends it: another intermediate is installed, and newcomers get in",
            healed && joined == Ok(200),
            format!(
                "believed again after {} ms, a newcomer's payment: {joined:?}",
                took.as_millis()
            ),
        ),
    ])
}

/// What `naka check` finds about the authority.
async fn alarms(stage: &Stage) -> Outcome<Vec<Finding>> {
    let all = stage.faults().await?;
    let about = |one: &Finding| one.code.as_str().ends_with("913");
    Ok(all.into_iter().filter(about).collect())
}

/// The words of a refusal because of time.
fn ended(handshake: &Result<(), String>) -> Option<String> {
    let words = handshake.as_ref().err()?;
    words
        .to_lowercase()
        .contains("expired")
        .then(|| words.clone())
}

/// Whether it is believed again, without an alarm: what was installed is in use a moment later.
async fn until_healed(stage: &Stage) -> Outcome<bool> {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if ended(&stage.handshake().await).is_none() && alarms(stage).await?.is_empty() {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// A newcomer's payment, once the sidecar that was killed has its line to the control plane again.
async fn until_joined(stage: &Stage) -> Result<u16, String> {
    let end = Instant::now() + SOON;
    loop {
        let said = pays(stage, "later").await;
        if said == Ok(200) || Instant::now() >= end {
            return said;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn until_paid(stage: &Stage) -> bool {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if stage.ask("/pay", &[]).await.status == 200 {
            return true;
        }
        tokio::time::sleep(LOOK).await;
    }
    false
}

/// A workload that was not there before, and its payment.
async fn pays(stage: &Stage, account: &'static str) -> Result<u16, String> {
    let who = Caller {
        namespace: "default",
        account,
        label: "",
    };
    let ask = Ask {
        id: account.to_owned(),
        host: "payment".to_owned(),
        method: "POST".to_owned(),
        path: "/pay".to_owned(),
        headers: Vec::new(),
    };
    let answers = stage
        .ask_as(who, &[ask])
        .await
        .map_err(|exit| exit.message)?;
    answers
        .get(account)
        .copied()
        .ok_or_else(|| "no answer".to_owned())
}
