//! The rules of one file put into another: for what asks "and if these rules were in force?".

use std::path::Path;

use super::{
    Config, Environment, Mistakes, Severity,
    diagnostic::{Notes, Place},
    finish, interpolate, load_text, read_text, resolve,
    yaml::{self, Id, Tree},
};

/// Loads `base` with the rules of `rules`: that is a whole file, which is loaded as it is, or one that holds only `clusters`
/// and in each of them `death_rules`, and `signals` if the rules need others.
///
/// # Errors
/// All mistakes, each at its place in the file in which it stands.
pub fn load_with_rules(base: &Path, rules: &Path, env: &dyn Environment) -> Result<Config, Mistakes> {
    let (base_name, rules_name) = (base.display().to_string(), rules.display().to_string());
    let base_text = read_text(base)?;
    let rules_text = read_text(rules)?;
    let mut own = Notes::new(&rules_name, &rules_text);
    let Some(rules_tree) = yaml::parse(&rules_text, &mut own) else {
        return Err(Mistakes { list: own.take(Severity::Error) });
    };
    if rules_tree.root.is_some_and(|root| rules_tree.get(root, "arbiter").is_some()) {
        return load_text(&rules_text, &rules_name, env);
    }
    // One text, so that every place has its line; the file is named again at the end.
    let text = format!("{}\n{rules_text}", base_text.trim_end_matches('\n'));
    let lines = u32::try_from(base_text.trim_end_matches('\n').lines().count()).unwrap_or(u32::MAX);
    let mut notes = Notes::new(&base_name, &text);
    let config = yaml::parse(&base_text, &mut notes).and_then(|mut tree| {
        let root = tree.adopt(rules_tree, lines)?;
        graft(&mut tree, root, &mut notes)?;
        let directory = base.parent().unwrap_or_else(|| Path::new(""));
        interpolate::interpolate(&mut tree, directory, env, &mut notes);
        resolve::resolve(&tree, &mut notes)
    });
    finish(config, notes).map_err(|mut mistakes| {
        for mistake in mistakes.list.iter_mut().filter(|mistake| mistake.line > lines) {
            mistake.line -= lines;
            mistake.file.clone_from(&rules_name);
        }
        mistakes
    })
}

/// Puts what stands under `rules` into the tree's own clusters; `None`: it was refused.
fn graft(tree: &mut Tree, rules: Id, notes: &mut Notes) -> Option<()> {
    let only = "such a file holds `clusters`, and in each of them `death_rules` and `signals`; or it is a whole file, with \
                `arbiter`";
    let mut is_sound = true;
    let mut refuse = |place: Place, message: String| {
        notes.error_help(place, message, only);
        is_sound = false;
    };
    for (key, _) in tree.entries(rules).to_vec() {
        if tree.node(key).text != "clusters" {
            refuse(tree.place(key), format!("`{}` is not taken from a file of rules", tree.node(key).shown()));
        }
    }
    let Some(clusters) = tree.get(rules, "clusters") else {
        refuse(tree.head(rules), "there is no `clusters`".into());
        return None;
    };
    let own = tree.root.and_then(|root| tree.get(root, "clusters"));
    for (name, cluster) in tree.entries(clusters).to_vec() {
        let word = tree.node(name).text.clone();
        let Some(target) = own.and_then(|own| tree.get(own, &word)) else {
            refuse(tree.place(name), format!("the file in force has no cluster `{}`", tree.node(name).shown()));
            continue;
        };
        for (key, value) in tree.entries(cluster).to_vec() {
            match tree.node(key).text.as_str() {
                "death_rules" => tree.set(target, key, value),
                "signals" => match tree.get(target, "signals") {
                    // Signal by signal: those that stay need not be written again.
                    Some(signals) => {
                        for (key, value) in tree.entries(value).to_vec() {
                            tree.set(signals, key, value);
                        }
                    }
                    None => tree.set(target, key, value),
                },
                _ => {
                    refuse(tree.place(key), format!("`{}` is not taken from a file of rules", tree.node(key).shown()));
                }
            }
        }
    }
    is_sound.then_some(())
}
