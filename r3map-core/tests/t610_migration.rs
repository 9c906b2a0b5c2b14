//! 610: what either side of a migration answers, step by step.

use r3map_core::migration::destination::{self, Destination, Told};
use r3map_core::migration::record::{Record, State};
use r3map_core::migration::source::{self, Action, Event, Source, What};
use r3map_core::migration::{Dirty, MAX_HAND_OVER, Message, Moved, Runs, Vote};
use r3map_core::{Code, Result};

const REGION: Moved = Moved { identity: [1; 16], size: 100 * 4096, epoch: 5 };
const ATTEMPT: [u8; 16] = [2; 16];
const SESSION: [u8; 16] = [3; 16];
const VOTE: Vote = Vote { session: SESSION, epoch: 6, ballot: 1 };

fn owner() -> Source {
    Source::new(Record::new(State::Owner, REGION)).unwrap().0
}

fn says(source: &mut Source, message: Message) -> Vec<Action> {
    source.on(Event::Received(message)).unwrap()
}

/// What it sent.
fn sent(actions: &[Action]) -> Vec<&Message> {
    let mut sent = Vec::new();
    for action in actions {
        if let Action::Send(message) = action {
            sent.push(message);
        }
    }
    sent
}

fn told(actions: &[Action]) -> Vec<&What> {
    let mut what = Vec::new();
    for action in actions {
        if let Action::Tell(told) = action {
            what.push(&told.what);
        }
    }
    what
}

fn step(actions: &[Action]) -> u64 {
    let step = |action: &Action| match action {
        Action::Arm { step } | Action::Quiesce { step, .. } | Action::Persist { step, .. } => Some(*step),
        _ => None,
    };
    actions.iter().find_map(step).unwrap()
}

fn tracking() -> Source {
    let mut source = owner();
    let actions = says(&mut source, Message::Track { attempt: ATTEMPT, region: REGION });
    source.on(Event::Armed { step: step(&actions), session: SESSION }).unwrap();
    source
}

/// A source whose app was asked to stop, and by which event.
fn suspending() -> (Source, u64) {
    let mut source = tracking();
    let actions = says(&mut source, Message::Finalize { vote: VOTE, acknowledged: 0 });
    let Some(Action::Tell(told)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(told.what, What::Suspending);
    (source, told.sequence)
}

/// A source that waits for its commit to be on disk, and that step.
fn committing() -> (Source, u64) {
    let (mut source, sequence) = suspending();
    let actions = source.on(Event::Suspended { sequence, payload: b"state".to_vec() }).unwrap();
    let dirty = Dirty::Pages(Runs::all(3));
    let actions = source.on(Event::Quiesced { step: step(&actions), dirty }).unwrap();
    let step = step(&actions);
    (source, step)
}

fn given() -> Source {
    let (mut source, step) = committing();
    source.on(Event::Persisted { step }).unwrap();
    source
}

fn aborted(message: &Message) -> bool {
    matches!(message, Message::Aborted { vote, .. } if *vote == VOTE)
}

fn code<T: std::fmt::Debug>(outcome: Result<T>) -> Code {
    outcome.unwrap_err().code()
}

#[test]
fn another_size_identity_or_a_later_epoch_is_refused_and_nothing_changes() {
    for (region, expected) in [
        (Moved { size: 1, ..REGION }, Code::InvalidArgument),
        (Moved { identity: [9; 16], ..REGION }, Code::InvalidArgument),
        (Moved { epoch: 6, ..REGION }, Code::StaleEpoch),
    ] {
        let mut source = owner();
        let actions = says(&mut source, Message::Track { attempt: ATTEMPT, region });
        assert!(matches!(&actions[..], [Action::Send(Message::Refused { code, .. })] if *code == expected));
        let here = Record::new(State::Drained, region);
        assert!(Destination::new(REGION, Some(here)).is_err());
    }
}

#[test]
fn of_two_destinations_the_second_is_busy_and_the_first_may_ask_again() {
    let mut source = tracking();
    let actions = says(&mut source, Message::Track { attempt: [8; 16], region: REGION });
    assert!(
        matches!(&actions[..], [Action::Send(Message::Refused { code: Code::Busy, attempt, .. })] if attempt == &[8; 16])
    );
    let actions = says(&mut source, Message::Track { attempt: ATTEMPT, region: REGION });
    assert_eq!(sent(&actions), [&Message::Tracking { attempt: ATTEMPT, session: SESSION, region: REGION }]);
}

#[test]
fn an_answer_of_the_app_to_an_older_event_is_stale_and_a_payload_has_a_bound() {
    let (mut source, sequence) = suspending();
    let stale = source.on(Event::Suspended { sequence: sequence - 1, payload: Vec::new() });
    assert_eq!(code(stale), Code::StaleEpoch);
    let large = source.on(Event::Suspended { sequence, payload: vec![0; MAX_HAND_OVER + 1] });
    assert_eq!(code(large), Code::InvalidArgument);
    source.on(Event::Suspended { sequence, payload: vec![0; MAX_HAND_OVER] }).unwrap();
    assert_eq!(code(source.on(Event::Suspended { sequence, payload: Vec::new() })), Code::StaleEpoch);
    assert_eq!(code(source.on(Event::Refused { sequence, reason: String::new() })), Code::StaleEpoch);
}

#[test]
fn a_refused_vote_is_aborted_for_good_while_the_session_goes_on_to_the_next() {
    let (mut source, sequence) = suspending();
    let actions = source.on(Event::Refused { sequence, reason: "busy writing".to_owned() }).unwrap();
    assert_eq!(told(&actions), [&What::Resumed { reason: "busy writing".to_owned() }]);
    assert!(matches!(sent(&actions)[..], [Message::Aborted { tracking: true, epoch: 5, .. }]));
    let late = says(&mut source, Message::Finalize { vote: VOTE, acknowledged: 0 });
    assert!(aborted(sent(&late)[0]) && told(&late).is_empty());
    let next = Vote { ballot: 2, ..VOTE };
    let actions = says(&mut source, Message::Finalize { vote: next, acknowledged: 0 });
    assert_eq!(told(&actions), [&What::Suspending]);
}

#[test]
fn a_vote_that_was_asked_after_before_it_came_is_never_acted_on() {
    let mut source = tracking();
    let actions = says(&mut source, Message::Status { vote: VOTE });
    assert!(aborted(sent(&actions)[0]));
    let late = says(&mut source, Message::Finalize { vote: VOTE, acknowledged: 0 });
    assert!(aborted(sent(&late)[0]) && told(&late).is_empty());
}

#[test]
fn the_region_is_given_only_once_that_is_on_disk_and_then_the_same_as_often_as_asked() {
    let (mut source, step) = committing();
    for question in [Message::Finalize { vote: VOTE, acknowledged: 0 }, Message::Status { vote: VOTE }] {
        assert_eq!(sent(&says(&mut source, question)), [&Message::Pending { vote: VOTE }]);
    }
    assert!(!source.owns() && source.is_needed());
    source.on(Event::Lost { session: SESSION }).unwrap();
    let actions = source.on(Event::Persisted { step }).unwrap();
    let given = Message::Given { vote: VOTE, dirty: Dirty::Pages(Runs::all(3)), payload: b"state".to_vec() };
    assert_eq!(sent(&actions), [&given]);
    assert!(actions.contains(&Action::Fence));
    for _ in 0..2 {
        assert_eq!(sent(&says(&mut source, Message::Status { vote: VOTE })), [&given]);
        assert_eq!(sent(&says(&mut source, Message::Finalize { vote: VOTE, acknowledged: 9 })), [&given]);
    }
    assert!(source.serves(SESSION) && !source.serves(ATTEMPT));
}

#[test]
fn a_commit_that_may_not_be_on_disk_is_undone_there_before_anybody_hears_of_it() {
    let (mut source, step) = committing();
    let actions = source.on(Event::NotPersisted { step, reason: "full".to_owned() }).unwrap();
    let [Action::Persist { step, record }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((record.state, record.region), (State::Owner, REGION));
    assert_eq!(sent(&says(&mut source, Message::Status { vote: VOTE })), [&Message::Pending { vote: VOTE }]);
    let actions = source.on(Event::Persisted { step: *step }).unwrap();
    assert!(actions.contains(&Action::Reopen) && source.owns());
    assert!(aborted(sent(&says(&mut source, Message::Status { vote: VOTE }))[0]));
}

#[test]
fn a_restarted_source_repeats_what_is_on_its_disk_even_if_the_pages_cannot_be_read() {
    let (_, step) = committing();
    let mut fresh = owner();
    assert!(aborted(sent(&says(&mut fresh, Message::Status { vote: VOTE }))[0]), "{step}");
    let record = Record { vote: VOTE, dirty: Dirty::All, ..Record::new(State::Given, Moved { epoch: 6, ..REGION }) };
    let (mut source, actions) = Source::new(record).unwrap();
    assert_eq!((actions.first(), source.owns()), (Some(&Action::Fence), false));
    let actions = says(&mut source, Message::Status { vote: VOTE });
    assert!(matches!(sent(&actions)[..], [Message::Given { dirty: Dirty::All, .. }]));
}

#[test]
fn an_older_state_of_the_region_says_nothing_about_a_vote() {
    for state in [State::Owner, State::Drained] {
        let region = Moved { epoch: if state == State::Owner { 4 } else { 5 }, ..REGION };
        let mut source = Source::new(Record::new(state, region)).unwrap().0;
        assert!(says(&mut source, Message::Status { vote: VOTE }).is_empty(), "{state:?}");
    }
}

#[test]
fn a_cut_before_the_commit_resumes_the_app_and_ends_the_session() {
    let (mut source, sequence) = suspending();
    let actions = source.on(Event::Lost { session: SESSION }).unwrap();
    assert!(matches!(told(&actions)[..], [What::Resumed { .. }, What::Waiting]));
    assert_eq!(code(source.on(Event::Suspended { sequence, payload: Vec::new() })), Code::StaleEpoch);
    assert!(aborted(sent(&says(&mut source, Message::Finalize { vote: VOTE, acknowledged: 0 }))[0]));
}

#[test]
fn abandon_and_reclaim_are_for_a_region_that_was_given_away() {
    assert_eq!(code(tracking().on(Event::Abandon)), Code::InvalidArgument);
    assert_eq!(code(tracking().on(Event::Reclaim)), Code::InvalidArgument);
    let mut abandoned = given();
    let actions = abandoned.on(Event::Abandon).unwrap();
    let actions = abandoned.on(Event::Persisted { step: step(&actions) }).unwrap();
    assert_eq!((told(&actions), abandoned.is_needed()), (vec![&What::Drained], false));
    assert_eq!(sent(&says(&mut abandoned, Message::Taken { vote: VOTE })), [&Message::Drained { vote: VOTE }]);

    let mut reclaimed = given();
    let actions = reclaimed.on(Event::Reclaim).unwrap();
    reclaimed.on(Event::Persisted { step: step(&actions) }).unwrap();
    assert_eq!((reclaimed.owns(), reclaimed.region().epoch), (true, 7));
    // Whoever has the region hears of it at the first word, and fences itself, also after a restart.
    let taken = Record { vote: VOTE, ..Record::new(State::Taken, Moved { epoch: 6, ..REGION }) };
    let (mut destination, _) = Destination::resume(taken);
    let answer = says(&mut reclaimed, Message::Taken { vote: VOTE });
    let actions = destination.on(destination::Event::Received(sent(&answer)[0].clone())).unwrap();
    assert!(actions.contains(&destination::Action::Fence) && !destination.owns());
    assert!(actions.contains(&destination::Action::Tell(Told::Fenced)));
}

#[test]
fn a_destination_goes_nowhere_by_messages_that_come_late_or_twice() {
    let (mut destination, _) = Destination::new(REGION, None).unwrap();
    let mut on = |event| destination.on(event).unwrap();
    let received = destination::Event::Received;
    let saved = |actions: Vec<destination::Action>| match actions[..] {
        [destination::Action::Persist { step, .. }] => destination::Event::Persisted { step },
        _ => panic!("{actions:?}"),
    };
    on(destination::Event::Begin { attempt: ATTEMPT });
    let begun = on(received(Message::Tracking { attempt: ATTEMPT, session: SESSION, region: REGION }));
    on(saved(begun));
    let round = |round| received(Message::Dirty { session: SESSION, round, pages: Runs::all(1) });
    assert!(on(round(2)).is_empty());
    assert_eq!((on(round(1)).len(), on(round(1)).len()), (1, 0));
    let give = || received(Message::Given { vote: VOTE, dirty: Dirty::All, payload: Vec::new() });
    assert!(on(give()).is_empty());
    let voted = on(destination::Event::Finalize);
    assert!(on(give()).is_empty(), "the vote is not on disk yet");
    on(saved(voted));
    let abort = |vote, epoch| {
        let reason = String::new();
        received(Message::Aborted { vote, epoch, tracking: false, reason })
    };
    assert!(on(abort(Vote { ballot: 0, ..VOTE }, 5)).is_empty() && on(round(2)).is_empty());
    let settle = on(give());
    let [destination::Action::Settle { step, .. }] = settle[..] else { panic!("{settle:?}") };
    assert!(on(give()).is_empty() && on(abort(VOTE, 5)).is_empty());
    let taken = on(destination::Event::Settled { step });
    let opened = on(saved(taken));
    assert!(matches!(opened[0], destination::Action::Open { .. }));
    assert!(on(give()).is_empty() && on(abort(VOTE, 6)).is_empty() && on(round(2)).is_empty());
    assert!(destination.owns());
}

#[test]
fn bytes_that_somebody_still_needs_are_no_place_to_move_to() {
    for state in [State::Owner, State::Given] {
        assert_eq!(code(Destination::new(REGION, Some(Record::new(state, REGION))).map(drop)), Code::Busy);
    }
    for state in [State::Copy, State::Willing, State::Taken] {
        assert_eq!(code(Source::new(Record::new(state, REGION)).map(drop)), Code::Busy);
    }
    // What it had given away may come back.
    assert!(Destination::new(REGION, Some(Record::new(State::Drained, REGION))).is_ok());
}

#[test]
fn a_region_that_is_still_arriving_is_tracked_once_it_is_all_here() {
    let (mut source, actions) = Source::arriving(REGION);
    assert_eq!((told(&actions), source.owns()), (vec![&What::Waiting], true));
    let track = || Message::Track { attempt: ATTEMPT, region: REGION };
    assert!(says(&mut source, track()).is_empty());
    // What was never asked of it before it was here comes to nothing, whatever happens.
    assert!(aborted(sent(&says(&mut source, Message::Status { vote: VOTE }))[0]));
    assert!(source.on(Event::Arrived { record: Record::new(State::Taken, REGION) }).unwrap().is_empty());
    assert!(says(&mut source, track()).is_empty());
    source.on(Event::Arrived { record: Record::new(State::Complete, REGION) }).unwrap();
    assert!(matches!(says(&mut source, track())[..], [Action::Arm { .. }]));
}

#[test]
fn what_source_says_first_is_numbered_from_one() {
    let (_, actions) = Source::new(Record::new(State::Owner, REGION)).unwrap();
    assert_eq!(actions, [Action::Tell(source::Told { sequence: 1, what: What::Waiting })]);
}
