//! Steps that look, act and look again; and the acts that are made of them. Any of them may be cut off after any
//! request and be begun again from the start: what is so already is seen, and left.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    At, JolokiaBroker, act_error, number,
    words::{Other, Step},
};
use crate::model::{ActError, Done, Failure, FailureKind, Order, Role, Target, time::human};

/// Between two looks at one attribute.
const POLL: Duration = Duration::from_millis(50);
/// One request may take this much of an act.
const SHARE: f64 = 0.5;

impl JolokiaBroker {
    /// Runs steps one after the other, each verified before the next begins.
    pub(super) async fn run(
        &self,
        verb: &str,
        steps: &[Step],
        order: &Order,
        others: &[Other],
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let attempted = format!("{verb} {}", order.target.member);
        let touched = AtomicBool::new(false);
        let all = self.all_steps(steps, order, others, deadline, &touched);
        all.await.map(|told| Done::new(told.join("; "))).map_err(|why| act_error(&attempted, &touched, why))
    }

    async fn all_steps(
        &self,
        steps: &[Step],
        order: &Order,
        others: &[Other],
        deadline: Duration,
        touched: &AtomicBool,
    ) -> Result<Vec<String>, String> {
        if steps.is_empty() {
            return Err("the broker kind has no steps for this: write them, or a `preset`".into());
        }
        // Where it stands, for whoever reads why the time was over.
        let at = Mutex::new(String::new());
        let work = async {
            let mut told = Vec::new();
            for step in steps {
                let for_whom: Vec<Option<&Other>> =
                    if step.is_for_each_other() { others.iter().map(Some).collect() } else { vec![None] };
                for other in for_whom {
                    let name = self.words(&order.target, other).put_into(&step.name);
                    *at.lock().unwrap_or_else(PoisonError::into_inner) = name.clone();
                    let how = self.one_step(step, order, other, deadline, touched).await;
                    told.push(format!("{name}: {}", how.map_err(|why| format!("{name}: {why}"))?));
                }
            }
            Ok(told)
        };
        timeout(deadline, work).await.unwrap_or_else(|_| {
            let at = at.lock().unwrap_or_else(PoisonError::into_inner);
            Err(format!("{at}: it was not so within {}", human(deadline)))
        })
    }

    async fn one_step(
        &self,
        step: &Step,
        order: &Order,
        other: Option<&Other>,
        deadline: Duration,
        touched: &AtomicBool,
    ) -> Result<String, String> {
        let target = match (step.at, other) {
            (At::Member, _) => &order.target,
            (At::Other, Some(Other { target: Some(target), .. })) => target,
            (At::Other, _) => return Err("the address of the other is not known in this act".into()),
        };
        let goal = step.goal().ok_or("`until` is missing")?;
        let words = self.words(&order.target, other);
        let mbean = self.mbean_at(target);
        let look = words.read(&goal.read(), &mbean);
        let limit = deadline.mul_f64(SHARE);
        let is_met = async || -> Result<bool, Failure> {
            let value = self.door.ask(target, &look, limit).await.map_err(|(failure, _)| failure)?;
            Ok(goal.is_met(&value, &words))
        };
        if is_met().await.map_err(|failure| failure.to_string())? {
            return Ok("already so".into());
        }
        if let Some(condition) = &step.only_if {
            let asked = words.read(&condition.read(), &mbean);
            let value = self.door.ask(target, &asked, limit).await.map_err(|(failure, _)| failure.to_string())?;
            if !condition.is_met(&value, &words) {
                return Ok("not needed".into());
            }
        }
        let request = step.write.as_ref().map(|write| words.write(write, &mbean));
        let request = request.or_else(|| step.exec.as_ref().map(|exec| words.exec(exec, &mbean)));
        let how = match &request {
            None => "waited until it was so",
            Some(request) => {
                touched.store(true, Ordering::Relaxed);
                match self.door.ask(target, request, limit).await {
                    Ok(_) => "done and read back",
                    // It may have done it and failed to say so; a look tells.
                    Err((failure, true)) if is_met().await.unwrap_or(false) => {
                        return Ok(format!("so, though it answered {failure}"));
                    }
                    Err((failure, _)) => return Err(failure.to_string()),
                }
            }
        };
        loop {
            match is_met().await {
                Ok(true) => return Ok(how.into()),
                Ok(false) => {}
                // Restarting, or its MBean is not registered yet.
                Err(failure) if failure.kind == FailureKind::NotFound => {}
                Err(failure) => return Err(failure.to_string()),
            }
            sleep(POLL).await;
        }
    }

    pub(super) async fn make_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = format!("promote {}", order.target.member);
        let others = self.others(&order.target);
        let mut done = self.run("promote", &self.config.promote, order, &others, deadline.mul_f64(0.7)).await?;
        let uncertain = |why: String| ActError::uncertain(attempted.clone(), why);
        let limit = deadline.mul_f64(0.1);
        let report = self
            .role(&order.target, limit)
            .await
            .map_err(|failure| uncertain(format!("{}; its role cannot be read back: {failure}", done.detail)))?;
        if report.role != Role::Primary {
            return Err(uncertain(format!("{}; read back, it is no primary", done.detail)));
        }
        done.position = report.position;
        // Its workers may differ, and it takes no writes until they are in step: that is told, and is no failure of the
        // promotion, which cannot be undone by now.
        let takes = match self.is_writable(&order.target, limit).await {
            Ok(true) => "it takes writes".into(),
            Ok(false) => "it refuses writes yet".into(),
            Err(failure) => format!("whether it takes writes is not known yet: {failure}"),
        };
        done.detail = format!("{}; {takes}{}", done.detail, self.state_of(&order.target, limit).await);
        Ok(done)
    }

    pub(super) async fn make_standby(
        &self,
        order: &Order,
        primary: &Target,
        promoted_at: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let attempted = format!("make {} follow {}", order.target.member, primary.member);
        let nothing = |why: String| ActError::nothing_done(attempted.clone(), why);
        if primary.member == order.target.member {
            return Err(nothing("a member cannot follow itself".into()));
        }
        let limit = deadline.mul_f64(0.1);
        // Nobody is made to follow one that is no primary.
        let ahead = self.role(primary, limit).await;
        let ahead = ahead.map_err(|failure| nothing(format!("{} does not answer: {failure}", primary.member)))?;
        if ahead.role != Role::Primary {
            return Err(nothing(format!("{} is no primary, it is a {}", primary.member, ahead.role)));
        }
        let before = self.role(&order.target, limit).await.map_err(|failure| nothing(failure.to_string()))?;
        // Once they are peers, what it had alone may be gone from its position too.
        let is_apart = before.role == Role::Primary || before.link_up == Some(false);
        let divergent = before.position.zip(promoted_at).filter(|_| is_apart).map(|(own, at)| own.saturating_sub(at));
        let others = [Other { name: primary.member.clone(), target: Some(primary.clone()) }];
        let mut done =
            self.run("make a standby of", &self.config.follow, order, &others, deadline.mul_f64(0.6)).await?;
        let uncertain = |why: String| ActError::uncertain(attempted.clone(), why);
        // The mirrored picture: who was primary is a standby, who was standby is primary, and nobody else is.
        let (member, new) = (self.role(&order.target, limit).await, self.role(primary, limit).await);
        match (&member, &new) {
            (Ok(member), Ok(new)) if member.role == Role::Standby && new.role == Role::Primary => {
                done.position = member.position;
            }
            (Ok(member), Ok(new)) => {
                let why = format!(
                    "read back, {} is {} and {} is {}",
                    order.target.member, member.role, primary.member, new.role
                );
                return Err(uncertain(format!("{}; {why}", done.detail)));
            }
            (Err(failure), _) | (_, Err(failure)) => {
                return Err(uncertain(format!("{}; it cannot be read back: {failure}", done.detail)));
            }
        }
        done.divergent = divergent;
        let tail = match divergent {
            Some(0) => "; it had nothing that the new primary had not got".to_owned(),
            Some(n) => format!("; it had {n} transactions that never reached the new primary"),
            None if is_apart => "; what it had beyond the new primary is not known".to_owned(),
            None => String::new(),
        };
        done.detail =
            format!("{}; the topology is the mirrored one{tail}{}", done.detail, self.state_of(primary, limit).await);
        Ok(done)
    }

    pub(super) async fn wait_for_position(
        &self,
        order: &Order,
        upto: Option<u64>,
        deadline: Duration,
    ) -> Result<Done, ActError> {
        let attempted = format!("catch up {}", order.target.member);
        // It only looks, so nothing can have happened.
        let limit = deadline.mul_f64(SHARE);
        let mut last: Option<(Option<u64>, Option<bool>)> = None;
        let mut failed = None;
        let look = async {
            let mut still = 0;
            loop {
                match self.role(&order.target, limit).await {
                    Ok(report) => {
                        let now = (report.position, report.link_up);
                        still = if last == Some(now) { still + 1 } else { 0 };
                        last = Some(now);
                        let is_enough = upto.is_none_or(|upto| now.0.is_some_and(|at| at >= upto));
                        // Two looks that agree; without a link nothing more can come, and without a position nothing can be
                        // told.
                        if still >= 1 && (is_enough || now.1 != Some(true) || now.0.is_none()) {
                            return;
                        }
                    }
                    Err(failure) => {
                        failed = Some(failure);
                        return;
                    }
                }
                sleep(POLL).await;
            }
        };
        let is_late = timeout(deadline.mul_f64(0.8), look).await.is_err();
        let Some((position, link)) = last else {
            let why = failed.map_or_else(|| format!("no answer within {}", human(deadline)), |f| f.to_string());
            return Err(ActError::nothing_done(attempted, why));
        };
        let at = position.map_or_else(|| "its position is not known".into(), |at| format!("it is at position {at}"));
        let short = match upto.zip(position) {
            Some((upto, at)) if at < upto => format!(", {} short of {upto}", upto - at),
            _ => String::new(),
        };
        let link = match link {
            Some(true) => "; its link to the other is up",
            Some(false) => "; it is apart from the other: what the other took since never came here",
            None => "",
        };
        let late = if is_late { "; the time was over" } else { "" };
        let state = self.state_of(&order.target, deadline.mul_f64(0.1)).await;
        Ok(Done { detail: format!("{at}{short}{link}{late}{state}"), position, divergent: None })
    }

    /// What the member says of itself and its workers, for the report.
    pub(super) async fn state_of(&self, target: &Target, limit: Duration) -> String {
        if self.config.describe.is_empty() {
            return String::new();
        }
        let (words, mbean) = (self.words(target, None), self.mbean_at(target));
        let requests: Vec<_> = self.config.describe.iter().map(|read| words.read(read, &mbean)).collect();
        let told = match timeout(limit, self.door.ask_all(target, &requests, limit)).await {
            Ok(Ok(answers)) => {
                let of = |(read, answer): (&super::Read, Result<Value, Failure>)| match answer {
                    Ok(value) => format!("{} {}", read.attribute, shown(&value)),
                    Err(failure) => format!("{} {}", read.attribute, failure.kind),
                };
                self.config.describe.iter().zip(answers).map(of).collect::<Vec<_>>().join(", ")
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "no answer in time".into(),
        };
        format!("; {} says: {told}", target.member)
    }
}

fn shown(value: &Value) -> String {
    match (value, number(value)) {
        (Value::String(text), _) => text.chars().take(200).collect(),
        _ => value.to_string().chars().take(400).collect(),
    }
}
