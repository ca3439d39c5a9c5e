//! When an exposure is to be looked at, given back or taken up again. Pure: the clock is an argument.
//!
//! The gateway takes a session that is silent for 5 s for gone, serves everything from the origin and puts the Service back. So
//! whoever was silent for longer, or has a new gateway, exposes again; and who hears nothing for 8 s puts the Service back itself,
//! because the gateway may be the one that is gone.

use std::time::{Duration, Instant};

/// After this much silence the gateway may have put the Service back.
const DOUBTFUL: Duration = Duration::from_secs(4);
/// After this much silence the Service is put back from here.
const GIVE_BACK: Duration = Duration::from_secs(8);
/// Heard within this time, the gateway is there: with exposures the path is probed each second.
const THERE: Duration = Duration::from_millis(2500);
/// How often the Service is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A Service that is found put back, while the gateway answers, stays so for this long before that counts as somebody's wish: a
/// gateway that is about to end puts Services back too.
const GRACE: Duration = Duration::from_secs(8);
/// How often it is looked at meanwhile.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// Pauses between attempts: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Wait,
    /// Do all steps of the exposure again; those that are done change nothing.
    Expose,
    /// Give the Service back to its origin.
    GiveBack,
    /// Look at the Service.
    Look,
}

/// How the Service was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It leads to the gateway, for this session.
    InEffect,
    /// Its annotation names this session, and it leads elsewhere, or some port of it does.
    Changed,
    /// Its annotation does not name this session.
    NotOurs,
}

/// What is known of an exposure that was in effect.
#[derive(Debug)]
pub(super) struct Judge {
    last_heard: Instant,
    /// Whether the steps are to be done again.
    due: bool,
    /// Whether this process put the Service back.
    given_back: bool,
    not_ours_since: Option<Instant>,
    next_attempt: Instant,
    pause: Duration,
    next_look: Instant,
}

impl Judge {
    /// The exposure is in effect.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_heard: now,
            due: false,
            given_back: false,
            not_ours_since: None,
            next_attempt: now,
            pause: PAUSE,
            next_look: now + LOOK,
        }
    }

    /// How long ago the gateway was heard on the path in use, if it ever was there.
    pub(super) fn heard(&mut self, ago: Option<Duration>, now: Instant) {
        let at = ago.and_then(|ago| now.checked_sub(ago));
        self.last_heard = at.map_or(self.last_heard, |at| at.max(self.last_heard));
        if self.silence(now) > DOUBTFUL {
            self.begin_anew(now);
        }
    }

    /// The other end is another one, or may have given up in the meantime.
    pub(super) fn replaced(&mut self, now: Instant) {
        self.begin_anew(now);
    }

    fn begin_anew(&mut self, now: Instant) {
        if !self.due {
            (self.next_attempt, self.pause) = (now, PAUSE);
        }
        self.due = true;
        self.not_ours_since = None;
    }

    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_heard)
    }

    /// What to do.
    pub(super) fn step(&self, now: Instant) -> Step {
        let silence = self.silence(now);
        let may_try = now >= self.next_attempt;
        if self.due && silence <= THERE && may_try {
            Step::Expose
        } else if silence > GIVE_BACK && !self.given_back && may_try {
            Step::GiveBack
        } else if !self.due && now >= self.next_look {
            Step::Look
        } else {
            Step::Wait
        }
    }

    /// All steps are done.
    pub(super) fn exposed(&mut self, now: Instant) {
        *self = Self {
            last_heard: self.last_heard,
            ..Self::new(now)
        };
    }

    /// The Service was given back.
    pub(super) fn gave_back(&mut self) {
        self.given_back = true;
        self.due = true;
    }

    /// An attempt at either failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.next_attempt = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The Service was looked at; whether somebody else put it back.
    pub(super) fn looked(&mut self, found: Option<Found>, now: Instant) -> bool {
        self.next_look = now + LOOK;
        match found {
            // It could not be seen.
            None => {}
            Some(Found::InEffect) => self.not_ours_since = None,
            Some(Found::Changed) => self.begin_anew(now),
            Some(Found::NotOurs) => {
                self.next_look = now + LOOK_SOON;
                let since = *self.not_ours_since.get_or_insert(now);
                return now.saturating_duration_since(since) >= GRACE;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds after the beginning, each second a sign of life up to `last`.
    struct Course {
        judge: Judge,
        begin: Instant,
    }

    impl Course {
        fn new() -> Self {
            let begin = crate::agent::now();
            Self {
                judge: Judge::new(begin),
                begin,
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.begin + Duration::from_secs(seconds)
        }

        /// Heard now.
        fn alive(&mut self, seconds: u64) -> Step {
            let now = self.at(seconds);
            self.judge.heard(Some(Duration::ZERO), now);
            self.judge.step(now)
        }

        /// Not heard since.
        fn silent(&mut self, seconds: u64) -> Step {
            let now = self.at(seconds);
            self.judge.heard(None, now);
            self.judge.step(now)
        }
    }

    #[test]
    fn a_short_silence_changes_nothing() {
        let mut course = Course::new();
        assert_eq!(course.silent(4), Step::Wait);
        assert_eq!(course.alive(4), Step::Wait);
        assert_eq!(course.alive(5), Step::Look);
    }

    #[test]
    fn after_a_silence_in_which_the_gateway_may_have_given_up_the_steps_are_done_again() {
        let mut course = Course::new();
        assert_eq!(course.silent(5), Step::Wait);
        assert_eq!(course.alive(6), Step::Expose);
        course.judge.exposed(course.at(6));
        assert_eq!(course.alive(7), Step::Wait);
    }

    #[test]
    fn a_gateway_that_is_gone_leaves_the_way_back_to_us() {
        let mut course = Course::new();
        assert_eq!(course.silent(8), Step::Wait);
        assert_eq!(course.silent(9), Step::GiveBack);
        course.judge.failed(course.at(9));
        assert_eq!(course.silent(9), Step::Wait, "not without a pause");
        assert_eq!(course.silent(10), Step::GiveBack);
        course.judge.gave_back();
        assert_eq!(course.silent(20), Step::Wait, "once");
        assert_eq!(course.alive(21), Step::Expose);
        course.judge.failed(course.at(21));
        assert_eq!(course.alive(21), Step::Wait);
        assert_eq!(course.alive(22), Step::Expose);
    }

    #[test]
    fn another_gateway_is_asked_at_once() {
        let mut course = Course::new();
        assert_eq!(course.alive(1), Step::Wait);
        course.judge.replaced(course.at(1));
        assert_eq!(course.alive(1), Step::Expose);
    }

    #[test]
    fn who_else_puts_it_back_means_it_unless_the_gateway_ended_meanwhile() {
        let mut course = Course::new();
        assert!(!course.judge.looked(Some(Found::NotOurs), course.at(5)));
        assert_eq!(course.alive(6), Step::Wait);
        assert_eq!(course.alive(7), Step::Look);
        assert!(!course.judge.looked(Some(Found::NotOurs), course.at(7)));
        assert!(course.judge.looked(Some(Found::NotOurs), course.at(13)));
        let mut course = Course::new();
        course.judge.looked(Some(Found::NotOurs), course.at(5));
        course.judge.replaced(course.at(6));
        assert_eq!(course.alive(6), Step::Expose);
        course.judge.exposed(course.at(6));
        assert!(!course.judge.looked(Some(Found::NotOurs), course.at(13)));
    }

    #[test]
    fn a_service_that_others_changed_is_led_here_again() {
        let mut course = Course::new();
        assert!(!course.judge.looked(None, course.at(5)));
        assert_eq!(course.alive(5), Step::Wait);
        assert!(!course.judge.looked(Some(Found::Changed), course.at(10)));
        assert_eq!(course.alive(10), Step::Expose);
    }
}
