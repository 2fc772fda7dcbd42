//! The faults found so far.

/// No more than this many are kept: a test that goes wrong tends to go wrong in a loop.
const MOST: usize = 1000;

/// Descriptions of faults, each once, in the order in which they were found.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn add(&mut self, finding: String) {
        if self.0.len() < MOST && !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    pub fn lines(&self) -> &[String] {
        &self.0
    }
}
