// SPDX-License-Identifier: GPL-2.0

//! What the benchmark in the guest tells the runner on the host: one JSON object a line. Both compile this
//! file.

use serde::{
    Deserialize,
    Serialize, //
};

/// One line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Line {
    /// What is being measured in.
    Machine {
        /// The kernel's release.
        kernel: String,
        /// Processors.
        processors: usize,
        /// Their model.
        model: String,
        /// The module's version.
        module: String,
        /// The module's parameters, with what they mean.
        parameters: Vec<String>,
    },
    /// What is done next, for those who wait, and for those who want to know where it hung.
    Step {
        /// In words.
        text: String,
    },
    /// One figure.
    Sample {
        /// Part of the benchmark.
        part: String,
        /// What was measured: the same text in each round.
        series: String,
        /// Unit of the figure.
        unit: String,
        /// Number of the round, from 0. Samples of one round may be compared with each other.
        round: u32,
        /// The figure.
        value: f64,
    },
    /// A part that cannot be measured with this module.
    Skipped {
        /// Part of the benchmark.
        part: String,
        /// Why.
        why: String,
    },
    /// A part that went wrong.
    Failed {
        /// Part of the benchmark.
        part: String,
        /// What happened.
        why: String,
    },
}
