//! A warning and what it is about.

use serde::{Deserialize, Serialize};

/// The subject of a warning; its name in JSON stays the same from version to version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The combine weights are constant, so the router gets no gradient from the loss.
    RouterWithoutGradient,
    /// The routed experts' output is multiplied by 0.
    ExpertsWithoutOutput,
    /// A gate for a shared expert that is not there.
    GateWithoutExpert,
    /// Balancing where every token visits every expert.
    BalanceWithoutChoice,
    /// An expert matrix is named twice.
    MatrixTwice,
    /// Decoupling is on and there is nothing that it could decouple.
    NothingDecoupled,
    /// The common rank leaves nothing to the unique parts.
    NothingUnique,
    /// The bases are never refreshed.
    NeverRefreshed,
    /// The learning rate never reaches its peak.
    WarmupWithoutEnd,
    /// Weight decay takes more than a whole weight in a step.
    DecayOvershoots,
    /// Experts without a token.
    DeadExperts,
    /// An expert with several times the even load.
    Overload,
    /// Few experts get nearly all tokens.
    LoadCollapsed,
    /// The gap behind the common rank has closed.
    GapClosed,
    /// Unique parts have drifted into the common basis.
    Drifted,
}

/// Something that is doubtful, in one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// Its subject.
    pub kind: Kind,
    /// The step whose figures say so; none for the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The finding and its meaning, for a person.
    pub message: String,
}
