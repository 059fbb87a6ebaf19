//! The sample plugins of all languages continue from each other's checkpoints,
//! and store equal bytes.
//!
//! `plugins/build` builds them, and `tests/run` calls it. A language that was not
//! built is not tested, and `tests/run` reports it. Rust is required;
//! `plugins/build` knows the other required ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use checkpointer::Checkpointer;
use checkpointer::plugin::{Grants, Plugin, Plugins};
use checkpointer::store::Store;
use checkpointer_tests::contents::Contents;
use checkpointer_tests::contract::{Backend, TestStore};
use checkpointer_tests::plugins::granted;

/// The folders of `plugins/`.
const LANGUAGES: [&str; 6] = ["c", "go", "javascript-quickjs", "javascript-starlingmonkey", "python", "rust"];

/// The built plugins by language.
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

async fn answer(plugin: &Plugin, grants: &Grants, input: &str) -> String {
    plugin.run(grants, input).await.expect("it ends").expect("it succeeds")
}

/// Each plugin continues from the checkpoint of the previous one, two rounds.
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

/// Starting from an empty store, all plugins leave equal contents except for
/// their names.
async fn compare(languages: &BTreeMap<&str, Plugin>, backend: Backend) {
    let mut left: Vec<(&str, String)> = Vec::new();
    for (language, plugin) in languages {
        let store = TestStore::new(backend).await;
        let grants = granted(&store.inner, "tenant/");
        for input in ["step a", "step a", "step a other", "b"] {
            answer(plugin, &grants, input).await;
        }
        // Names are at the end of ids, and strings in JSON, as `{:?}` prints them.
        let contents = format!("{:?}", Contents::of(&store).await)
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
async fn all_languages_continue_from_each_other_and_store_equal_bytes() {
    let languages = languages();
    for backend in [Backend::File, Backend::Redis] {
        relay(&languages, &TestStore::new(backend).await.inner).await;
        compare(&languages, backend).await;
    }
}
