//! The names of keys in both layouts, written independently of the code under
//! test.

use checkpointer::Layout;

/// Both layouts.
pub const LAYOUTS: [Layout; 2] = [Layout::Llmfy, Layout::Partitioned];

/// The names of keys under one prefix.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The prefix of every key.
    pub prefix: &'a str,
    /// The layout.
    pub layout: Layout,
}

impl Names<'_> {
    /// The key of a checkpoint's document.
    pub fn document(&self, session: &str, id: &str) -> String {
        if self.is_partitioned() {
            format!("{}checkpoint:{id}", self.partition(session))
        } else {
            format!("{}checkpoint:{id}", self.prefix)
        }
    }

    /// The index of a session.
    pub fn index(&self, session: &str) -> String {
        if self.is_partitioned() {
            format!("{}session", self.partition(session))
        } else {
            format!("{}session:{session}", self.prefix)
        }
    }

    /// The index of a run of a session.
    pub fn index_of_run(&self, session: &str, run: &str) -> String {
        if self.is_partitioned() {
            format!("{}run:{run}", self.partition(session))
        } else {
            format!("{}session:{session}:run:{run}", self.prefix)
        }
    }

    fn is_partitioned(&self) -> bool {
        self.layout == Layout::Partitioned
    }

    /// The prefix of all keys of a session, in the layout `partitioned`.
    fn partition(&self, session: &str) -> String {
        let escape = |character| match character {
            '%' => "%25".to_owned(),
            '{' => "%7B".to_owned(),
            '}' => "%7D".to_owned(),
            other => other.to_string(),
        };
        format!("{}{{{}}}\0", self.prefix, session.chars().map(escape).collect::<String>())
    }
}

/// The part of a key that determines its slot in a Redis Cluster: the text in the
/// first braces, or the whole key if there is none.
pub fn hash_tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, behind)| behind.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}
