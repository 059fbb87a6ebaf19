//! The sample plugins of all languages: what one saves the next goes on from, and
//! all store the same.
//!
//! `plugins/build` makes them, and `tests/run` calls it. One that is not there is not
//! run, and `tests/run` names it in the end; that in Rust has to be there, and which
//! others is the business of `plugins/build`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use checkpointer::Checkpointer;
use checkpointer::plugin::{Grant, Grants, Plugin, Plugins};
use checkpointer::store::Store;
use checkpointer_tests::contents::Contents;
use checkpointer_tests::contract::{Backend, TestStore};

/// The folders of `plugins/`.
const LANGUAGES: [&str; 6] = ["c", "go", "javascript-quickjs", "javascript-starlingmonkey", "python", "rust"];

/// The plugins that were built, by their languages.
fn languages() -> BTreeMap<&'static str, Plugin> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins");
    let all = Plugins::new().and_then(|all| all.cache(&folder.join("compiled"))).expect("an engine");
    let mut built = BTreeMap::new();
    for language in LANGUAGES {
        match fs::read(folder.join(language).with_extension("wasm")) {
            Ok(wasm) => drop(built.insert(language, all.load(&wasm).expect("a plugin"))),
            Err(error) => println!("NOT RUN: {language}: {error}"),
        }
    }
    assert!(built.contains_key("rust"), "nothing is built; run plugins/build");
    built
}

fn granted(store: &Arc<dyn Store>, prefix: &str) -> Grants {
    Grants::new().bucket("default", Grant::new(Arc::clone(store), prefix))
}

async fn answer(plugin: &Plugin, grants: &Grants, input: &str) -> String {
    plugin.run(grants, input).await.expect("it ends").expect("it succeeds")
}

/// Each goes on from what the one before it saved, twice around.
async fn relay(languages: &BTreeMap<&str, Plugin>, store: &Arc<dyn Store>) {
    let grants = granted(store, "relay/");
    let mut trail = Vec::new();
    for (language, plugin) in languages.iter().chain(languages) {
        trail.push(*language);
        let told = answer(plugin, &grants, "step s").await;
        let expected: Vec<String> = trail
            .iter()
            .enumerate()
            .map(|(before, language)| format!("{0} {language} s-{0}-{language}", before + 1))
            .rev()
            .take(10)
            .collect();
        assert_eq!(told, expected.join("\n"), "as {language} tells it");
    }
    let prefix = "relay/llmfy_checkpoint:";
    let library = Checkpointer::builder().prefix(prefix).open_store(Arc::clone(store)).await.expect("opened");
    let latest = library.latest("s").await.expect("loaded").expect("there");
    let names: Vec<String> = trail.iter().map(|language| format!("\"{language}\"")).collect();
    assert_eq!(latest.state, format!("{{\"count\":{},\"trail\":[{}]}}", trail.len(), names.join(",")));
}

/// From the same beginning, each leaves the same in the store, to the byte, but for
/// its own name.
async fn compare(languages: &BTreeMap<&str, Plugin>, kind: Backend) {
    let mut left: Vec<(&str, String)> = Vec::new();
    for (language, plugin) in languages {
        let place = TestStore::new(kind).await;
        let grants = granted(&place.store, "tenant/");
        for input in ["step a", "step a", "step a other", "b"] {
            answer(plugin, &grants, input).await;
        }
        // As `{:?}` shows strings: names end ids, or are strings in JSON.
        let contents = format!("{:?}", Contents::of(&place).await)
            .replace(&format!("-{language}\""), "-LANGUAGE\"")
            .replace(&format!("-{language}\\"), "-LANGUAGE\\")
            .replace(&format!("\"{language}\\"), "\"LANGUAGE\\");
        left.push((language, contents));
    }
    for (language, contents) in &left {
        assert!(contents.contains("a-1-LANGUAGE"), "{contents}");
        assert_eq!(contents, &left[0].1, "of {language} and {}", left[0].0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_languages_go_on_from_each_other_and_store_the_same_bytes() {
    let languages = languages();
    for kind in [Backend::File, Backend::Redis] {
        relay(&languages, &TestStore::new(kind).await.store).await;
        compare(&languages, kind).await;
    }
}
