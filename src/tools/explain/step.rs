//! What an explanation is made of: steps within steps, as text or as JSON.

use serde_json::{Map, Value};

/// One line of an explanation and what belongs to it.
#[derive(Clone, Debug)]
pub struct Step {
    /// What kind of thing it is about, such as `listener` or `route`; `kind` in JSON.
    kind: &'static str,
    /// The line.
    text: String,
    /// What scripts want to read without taking the line apart.
    facts: Map<String, Value>,
    steps: Vec<Step>,
}

impl Step {
    /// A line.
    pub fn new(kind: &'static str, text: impl Into<String>) -> Step {
        // Names come from configurations; a line break in one would look like a step of ours.
        let text = text.into().replace(['\n', '\r'], " ");
        Step { kind, text, facts: Map::new(), steps: Vec::new() }
    }

    /// With a fact.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Step {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// With steps within.
    pub fn with(mut self, steps: Vec<Step>) -> Step {
        self.steps.extend(steps);
        self
    }

    /// Appends its lines, two spaces for each level.
    pub fn write(&self, out: &mut String, depth: usize) {
        out.extend(std::iter::repeat_n("  ", depth));
        out.push_str(&self.text);
        out.push('\n');
        self.steps.iter().for_each(|s| s.write(out, depth + 1));
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("kind".to_owned(), self.kind.into());
        object.insert("text".to_owned(), self.text.clone().into());
        object.extend(self.facts.clone());
        if !self.steps.is_empty() {
            object.insert("steps".to_owned(), self.steps.iter().map(Step::json).collect());
        }
        object.into()
    }
}
