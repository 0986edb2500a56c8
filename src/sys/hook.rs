//! What programs, requests and files of the operator's are told about an act: environment and templates.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, context, syntax::SyntaxConfig};

use crate::model::{Order, Target};

/// The environment of a program that acts for us.
#[must_use]
pub fn environment(action: &str, order: &Order, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = target_environment(action, &order.target, more);
    all.insert("CORONER_EPOCH".into(), order.epoch.to_string());
    all.insert("CORONER_INCIDENT".into(), order.incident.to_string());
    all
}

/// The environment of a program that only checks: no epoch, no incident.
#[must_use]
pub fn target_environment(action: &str, target: &Target, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<_, _> = more.iter().map(|(key, value)| (key.clone(), target.expand(value))).collect();
    all.extend([
        ("CORONER_ACTION".into(), action.to_owned()),
        ("CORONER_CLUSTER".into(), target.cluster.to_string()),
        ("CORONER_MEMBER".into(), target.member.to_string()),
        ("CORONER_ADDRESS".into(), target.address.clone()),
    ]);
    all
}

/// Whether a text is a template at all.
///
/// # Errors
/// Where it is not.
pub fn check_template(text: &str) -> Result<(), String> {
    engine().template_from_str(text).map(drop).map_err(|e| format!("the template is not understood: {e}"))
}

/// Fills a template: `cluster`, `member`, `address`, `host`, `port`, `epoch`, `incident`. A name that does not exist
/// is an error, because half a configuration is worse than none.
///
/// # Errors
/// What could not be filled in.
pub fn render(text: &str, order: &Order) -> Result<String, String> {
    let target = &order.target;
    let values = context! {
        cluster => target.cluster.as_str(),
        member => target.member.as_str(),
        address => target.address.as_str(),
        host => target.host(),
        port => target.port(),
        epoch => order.epoch.0,
        incident => order.incident.as_str(),
    };
    engine().render_str(text, values).map_err(|e| format!("the template cannot be filled: {e}"))
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    // The standard delimiters are never ambiguous; if they ever were, a lost last newline would be the only harm.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        engine.set_syntax(syntax);
    }
    engine
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn order() -> Order {
        let target = Target { cluster: "orders".into(), member: "broker-a".into(), address: "[::1]:6379".into() };
        Order { target, epoch: Epoch(7), incident: "01J".into() }
    }

    #[test]
    fn templates_know_the_order_and_nothing_else() {
        let text = render("{{ cluster }} {{ member }} {{ host }} {{ port }} {{ epoch }} {{ incident }}\n", &order());
        assert_eq!(text.unwrap(), "orders broker-a ::1 6379 7 01J\n");
        assert!(render("{{ primry }}", &order()).is_err());
        assert!(check_template("{{ member").is_err());
    }

    #[test]
    fn the_operators_environment_cannot_hide_whom_it_is_about() {
        let more = [("CORONER_MEMBER".to_owned(), "x".to_owned()), ("PORT".into(), "{port}".into())].into();
        let env = environment("fence", &order(), &more);
        assert_eq!(env["CORONER_MEMBER"], "broker-a");
        assert_eq!(env["PORT"], "6379");
        assert_eq!(env["CORONER_EPOCH"], "7");
    }
}
