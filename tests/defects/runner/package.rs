//! The scratch package: the pure parts alone, with the tests that need nothing else. It builds in seconds.
//!
//! Which parts and tests there are is seen in the tree, so that a new one is picked up by itself; which packages they
//! need is read from the repository's own `Cargo.toml`. A module of a test that needs more than the pure parts is left
//! out, and that is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The parts that know no runtime, socket, file or clock; those that are in the tree are taken.
const PARTS: [&str; 7] = ["model", "failover", "engine", "lease", "mesh", "election", "sim"];

/// Of these only the types are taken: what stands in `mod.rs` itself.
const TYPES_OF: [&str; 1] = ["registry"];

/// The test crates; those that are in the tree are taken.
const TESTS: [&str; 7] = ["lease", "engine", "failover", "mesh", "election", "model", "sim"];

/// What was made.
#[derive(Debug, Default)]
pub struct Package {
    /// Its folder.
    pub folder: PathBuf,
    /// Its test crates.
    pub tests: Vec<String>,
    /// By test crate, the parts whose code it runs: those that it names, and those that they need.
    pub runs: BTreeMap<String, BTreeSet<String>>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Makes the package, or brings one that is there up to the tree. Files that are as they should be are not touched, so
/// that cargo builds nothing anew for them.
///
/// # Errors
/// A file cannot be read or written.
pub fn make(root: &Path, folder: &Path) -> Result<Package, String> {
    let mut package = Package { folder: folder.to_owned(), ..Package::default() };
    let mut files: Vec<(PathBuf, String)> = Vec::new();
    let mut library = String::from("//! The pure parts alone.\n");
    let mut parts: Vec<&str> = Vec::new();
    for part in PARTS {
        let folder = root.join("src").join(part);
        if folder.is_dir() {
            parts.push(part);
            library.push_str(&format!("pub mod {part};\n"));
            for path in below(&folder)? {
                files.push((relative(root, &path), read(&path)?));
            }
        }
    }
    for part in TYPES_OF {
        let text = read(&root.join("src").join(part).join("mod.rs"))?;
        parts.push(part);
        library.push_str(&format!("pub mod {part};\n"));
        files.push((PathBuf::from(format!("src/{part}.rs")), types_of(&text)));
    }
    files.push(("src/lib.rs".into(), library));
    for name in TESTS {
        let folder = root.join("tests").join(name);
        if !folder.join("main.rs").is_file() {
            continue;
        }
        let mut left_out = Vec::new();
        let mut own = Vec::new();
        for path in below(&folder)? {
            let text = read(&path)?;
            let missing = missing(&text, &parts);
            if missing.is_empty() || path.extension().is_none_or(|e| e != "rs") {
                own.push((relative(root, &path), text));
            } else {
                left_out.push((path, missing));
            }
        }
        if let Some((_, missing)) = left_out.iter().find(|(path, _)| path.ends_with("main.rs")) {
            package.left_out.push(format!("tests/{name} (it needs {})", missing.join(", ")));
            continue;
        }
        for (path, missing) in &left_out {
            let module = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            for (_, text) in own.iter_mut().filter(|(path, _)| path.ends_with("main.rs")) {
                *text = text.replace(&format!("\nmod {module};\n"), "\n");
            }
            package.left_out.push(format!("{} (it needs {})", relative(root, path).display(), missing.join(", ")));
        }
        files.extend(own);
        package.tests.push(name.to_owned());
    }
    // What they name with `#[path]`, and what that names again.
    let mut next = 0;
    while let Some((path, text)) = files.get(next) {
        let named: Vec<PathBuf> = named(path, text).filter(|path| !files.iter().any(|(is, _)| is == path)).collect();
        for path in named {
            let text = read(&root.join(&path))?;
            files.push((path, text));
        }
        next += 1;
    }
    package.runs = runs(&files, &package.tests);
    let manifest = manifest(&read(&root.join("Cargo.toml"))?, &files, &package.tests);
    files.push(("Cargo.toml".into(), manifest));
    let lock = folder.join("Cargo.lock");
    if !lock.exists() {
        // The versions of the repository; cargo takes out what is not needed.
        write(&lock, &read(&root.join("Cargo.lock"))?)?;
    }
    clean(folder, &files)?;
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    Ok(package)
}

/// Writes a file, if it is not so already.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    if fs::read_to_string(path).is_ok_and(|is| is == text) {
        return Ok(());
    }
    let told = |e: io::Error| format!("{}: {e}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(told)?;
    }
    fs::write(path, text).map_err(told)
}

/// Sources that are no longer in the tree, or not to be built.
fn clean(folder: &Path, files: &[(PathBuf, String)]) -> Result<(), String> {
    for part in ["src", "tests"] {
        if folder.join(part).is_dir() {
            for path in below(&folder.join(part))? {
                if !files.iter().any(|(name, _)| folder.join(name) == path) {
                    fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                }
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

pub fn below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let told = |e: io::Error| format!("{}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.is_dir() {
            found.extend(below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A `mod.rs` without its modules and what it passes on of them.
fn types_of(text: &str) -> String {
    let is_of_a_module = |line: &str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        (line.starts_with("mod ") || line.starts_with("use open::")) && line.ends_with(';')
    };
    text.lines().filter(|line| !is_of_a_module(line)).fold(String::new(), |all, line| all + line + "\n")
}

/// The files that this one names with `#[path]`.
pub fn named(path: &Path, text: &str) -> impl Iterator<Item = PathBuf> {
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"));
    names.map(|name| {
        let mut place = path.parent().map(Path::to_owned).unwrap_or_default();
        for part in Path::new(name).components() {
            match part {
                Component::ParentDir => drop(place.pop()),
                part => place.push(part),
            }
        }
        place
    })
}

/// The parts of the library that a test uses and that are not there.
fn missing(text: &str, parts: &[&str]) -> Vec<String> {
    used(text, "coroner").into_iter().filter(|name| !parts.contains(&name.as_str())).collect()
}

/// The modules of that crate that a text names.
fn used(text: &str, of: &str) -> BTreeSet<String> {
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).fold(String::new(), |a, b| a + b + "\n");
    let path = format!("{of}::");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices(&path) {
        let rest = &code[at + path.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            used.insert(word(rest));
            continue;
        };
        // `use crate::{a::X, b::{Y, Z}};`: what begins at depth one.
        let (mut depth, mut begins) = (1, true);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                c if c.is_whitespace() => {}
                _ if depth == 1 && begins => {
                    used.insert(word(&list[at..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

/// By test crate, the parts whose code it runs. What is broken elsewhere it cannot notice.
fn runs(files: &[(PathBuf, String)], tests: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let of = |folder: &Path, name: &str| -> BTreeSet<String> {
        let below = files.iter().filter(|(path, _)| path.starts_with(folder));
        below.flat_map(|(_, text)| used(text, name)).collect()
    };
    let whole = |test: &String| {
        let folder = Path::new("tests").join(test);
        let mut all = of(&folder, "coroner");
        if files.iter().any(|(path, text)| path.starts_with(&folder) && text.contains("\"../common/")) {
            all.extend(of(Path::new("tests/common"), "coroner"));
        }
        loop {
            let needed: BTreeSet<String> =
                all.iter().flat_map(|part| of(&Path::new("src").join(part), "crate")).chain(all.clone()).collect();
            if needed == all {
                return (test.clone(), all);
            }
            all = needed;
        }
    };
    tests.iter().map(whole).collect()
}

/// The packages of the repository that are named in the files, with the repository's versions.
fn manifest(whole: &str, files: &[(PathBuf, String)], tests: &[String]) -> String {
    let is_named = |line: &&str, folder: &str| {
        let name = line.split([' ', '=']).next().unwrap_or_default().replace('-', "_");
        let path = format!("{name}::");
        files.iter().any(|(file, text)| file.starts_with(folder) && text.contains(&path))
    };
    let mut text = String::from(
        "# The pure parts of the repository; made by tests/defects/run, and made anew by it.\n\
         [package]\nname = \"coroner\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\nautotests = false\n\n\
         [lib]\ndoctest = false\n\n[workspace]\n\n[dependencies]\n",
    );
    let own: Vec<&str> = section(whole, "[dependencies]").filter(|line| is_named(line, "src")).collect();
    let all = section(whole, "[dependencies]").chain(section(whole, "[dev-dependencies]"));
    let mut of_tests: Vec<&str> = all.filter(|line| is_named(line, "tests") || is_named(line, "src")).collect();
    let package = |line: &str| line.split([' ', '=']).next().unwrap_or_default().to_owned();
    of_tests.retain(|line| !own.iter().any(|own| package(own) == package(line)));
    for line in own {
        text.push_str(&format!("{line}\n"));
    }
    text.push_str("\n[dev-dependencies]\n");
    for line in of_tests {
        text.push_str(&format!("{line}\n"));
    }
    // Built often and run often: optimised a little. Signing a datagram takes a millisecond without.
    text.push_str("\n[profile.dev]\ndebug = 0\nopt-level = 1\n\n[profile.dev.package.\"*\"]\nopt-level = 3\n");
    for name in tests {
        text.push_str(&format!("\n[[test]]\nname = \"{name}\"\npath = \"tests/{name}/main.rs\"\n"));
    }
    text
}

/// The entries of one section of a manifest: each a line.
fn section<'a>(whole: &'a str, title: &str) -> impl Iterator<Item = &'a str> {
    let title = title.to_owned();
    let lines = whole.lines().skip_while(move |line| *line != title).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| line.contains('='))
}
