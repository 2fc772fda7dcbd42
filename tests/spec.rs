//! The spec, the code's list of rules, `rules.toml` and the suite say the same.

use std::collections::BTreeSet;
use std::path::Path;

use flashpack::rule;
use serde_json::Value;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The ids that the spec defines: list items that begin with an id in bold.
fn clauses() -> Vec<String> {
    let spec = read("spec/flashpack.md");
    let defined = spec.lines().filter_map(|line| line.trim_start().strip_prefix("- **")?.split_once("**"));
    defined
        .map(|(id, _)| id.to_owned())
        .filter(|id| id.contains('-') && id.ends_with(|last: char| last.is_ascii_digit()))
        .collect()
}

fn suite() -> Value {
    serde_json::from_str(&read("conformance/manifest.json")).unwrap()
}

#[derive(serde::Deserialize)]
struct Rules {
    rule: Vec<Rule>,
}

#[derive(serde::Deserialize)]
struct Rule {
    id: String,
    stage: String,
    severity: String,
    layouts: Vec<String>,
    text: String,
}

#[test]
fn the_list_of_rules_is_the_codes() {
    let listed: Rules = toml::from_str(&read("spec/rules.toml")).unwrap();
    assert_eq!(listed.rule.len(), rule::ALL.len());
    for (listed, rule) in listed.rule.iter().zip(rule::ALL) {
        assert_eq!(listed.id, rule.id);
        assert_eq!(listed.stage, rule.stage.name(), "{}", rule.id);
        assert_eq!(listed.severity, rule.severity.name(), "{}", rule.id);
        assert_eq!(listed.layouts, rule.layouts.iter().map(|layout| layout.name()).collect::<Vec<_>>(), "{}", rule.id);
        assert_eq!(listed.text, rule.text, "{}", rule.id);
    }
}

#[test]
fn every_rule_is_a_clause_and_no_clause_stands_twice() {
    let clauses = clauses();
    let unique: BTreeSet<&String> = clauses.iter().collect();
    assert_eq!(unique.len(), clauses.len());
    for rule in rule::ALL {
        assert!(unique.contains(&rule.id.to_owned()), "{} is no clause", rule.id);
    }
}

#[test]
fn every_rule_has_a_vector_that_breaks_it_and_only_it() {
    let suite = suite();
    let mut broken = BTreeSet::new();
    for vector in suite["vectors"].as_array().unwrap() {
        let rules = vector.get("rules").or_else(|| vector["expect"].get("warnings")).and_then(Value::as_array).unwrap();
        if let [rule] = rules.as_slice() {
            broken.insert(rule.as_str().unwrap().to_owned());
        }
    }
    for rule in rule::ALL {
        assert!(broken.contains(rule.id), "no vector breaks {}", rule.id);
    }
}

#[test]
fn what_the_suite_and_the_code_cite_is_defined() {
    let clauses: BTreeSet<String> = clauses().into_iter().collect();
    for vector in suite()["vectors"].as_array().unwrap() {
        for clause in vector["clauses"].as_array().unwrap() {
            assert!(clauses.contains(clause.as_str().unwrap()), "{} cites {clause}", vector["id"]);
        }
    }
    let packs = ["sealed-small", "v4-small", "v3-small"];
    for name in packs {
        let path = format!("{}/conformance/vectors/{name}.flashpack", env!("CARGO_MANIFEST_DIR"));
        for field in flashpack::explain::explain(&flashpack::Pack::open(path).unwrap()).unwrap() {
            assert!(field.clause.is_empty() || clauses.contains(field.clause), "explain cites {}", field.clause);
        }
    }
}

/// The worked dumps are what `flashpack explain` prints. `UPDATE_SPEC=1 cargo test --test spec` puts them in.
#[test]
fn the_worked_dumps_are_the_commands() {
    let spec = read("spec/flashpack.md");
    let mut updated = spec.clone();
    for layout in ["sealed", "v4", "v3"] {
        let vector = format!("conformance/vectors/{layout}-small.flashpack");
        let output = assert_cmd::Command::cargo_bin("flashpack").unwrap().args(["explain", &vector]).output().unwrap();
        assert!(output.status.success());
        let dump = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = dump.lines().map(str::trim_end).collect();
        let begin = format!("<!-- worked-dump:{layout} -->\n");
        let start = updated.find(&begin).expect("a place for the dump") + begin.len();
        let end = start + updated[start..].find("<!-- end -->").expect("its end");
        updated.replace_range(start..end, &format!("```text\n{}\n```\n", lines.join("\n")));
    }
    if std::env::var_os("UPDATE_SPEC").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/flashpack.md"), &updated).unwrap();
    } else {
        assert!(spec == updated, "the spec's dumps are old: UPDATE_SPEC=1 cargo test --test spec");
    }
}
