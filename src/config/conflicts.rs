//! What two parts of a project both want to themselves: a table has one writer, a slot one reader.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::{Finding, Severity};

use super::{Diagnostic, LoadedPipeline, Place};

/// A source or a sink of a pipeline.
struct Part {
    words: String,
    place: Place,
}

impl Part {
    fn new(kind: &str, name: &str, pipeline: &LoadedPipeline, place: Place) -> Self {
        Self {
            words: format!(
                "the {kind} `{name}` of the pipeline `{}`",
                pipeline.config.pipeline.value
            ),
            place,
        }
    }

    /// A fault at this part, whose `what` the other part has too.
    fn shares(&self, what: &str, other: &Self, code: &'static str, hint: &str) -> Diagnostic {
        let message = format!("{what} belongs to {} ({}) already", other.words, other.place);
        let finding = Finding::new(Severity::Error, &self.words, message);
        Diagnostic::new(self.place.clone(), finding.code(code).hint(hint))
    }
}

/// One fault for each pair of sinks that write one table, and of sources that read one slot.
pub fn faults<'a>(pipelines: impl Iterator<Item = &'a LoadedPipeline>) -> Vec<Diagnostic> {
    let (mut slots, mut tables) = (BTreeMap::new(), BTreeMap::new());
    let mut faults = Vec::new();
    for pipeline in pipelines {
        faults.extend(slot_faults(pipeline, &mut slots));
        faults.extend(table_faults(pipeline, &mut tables));
    }
    faults
}

fn slot_faults(pipeline: &LoadedPipeline, taken: &mut BTreeMap<String, Part>) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    for (name, source) in &pipeline.config.sources {
        let Some(slot) = source.value.claim(&pipeline.config.pipeline.value, name) else {
            continue;
        };
        let part = Part::new("source", name, pipeline, pipeline.source_place(name));
        if let Some(other) = taken.get(&slot) {
            let hint = "a slot has one reader: give one of the sources a `slot` of its own";
            faults.push(part.shares(&slot, other, "CF0008", hint));
        } else {
            taken.insert(slot, part);
        }
    }
    faults
}

fn table_faults(pipeline: &LoadedPipeline, taken: &mut BTreeMap<(String, String), Part>) -> Vec<Diagnostic> {
    let sinks: Vec<_> = pipeline.config.sinks.iter().collect();
    let mut faults = Vec::new();
    let mut told = BTreeSet::new();
    for target in pipeline.targets().0 {
        let (name, sink) = sinks[target.sink];
        let Some(location) = sink.value.connector.location() else {
            continue;
        };
        let part = Part::new("sink", name, pipeline, pipeline.sink_place(name));
        let table = (location, target.name);
        if let Some(other) = taken.get(&table) {
            if told.insert((target.sink, other.words.clone())) {
                let what = format!("the table `{}` at this url", table.1);
                let hint = "a table has one writer: give one of the sinks another url, or other tables";
                faults.push(part.shares(&what, other, "CF0007", hint));
            }
        } else {
            taken.insert(table, part);
        }
    }
    faults
}
