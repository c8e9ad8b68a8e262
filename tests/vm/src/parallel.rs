// SPDX-License-Identifier: GPL-2.0

//! Work that is done by several threads at once.

use anyhow::{
    anyhow,
    Result, //
};
use std::{
    sync::{
        Mutex,
        PoisonError, //
    },
    thread,
};

/// Does `work` on each of the `items` in `count` threads, each of which takes the next one when it is done with
/// one. Returns the results in no order.
///
/// # Errors
///
/// The first of those of `work`: the thread that it comes from takes no further item, the others do.
pub fn each<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    count: usize,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let left = Mutex::new(items);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || -> Result<Vec<R>> { std::iter::from_fn(next).map(&work).collect() };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(run)).collect();
        let mut all = Vec::new();
        let mut error = None;
        for thread in threads {
            match thread.join() {
                Ok(Ok(results)) => all.extend(results),
                Ok(Err(other)) => error = error.or(Some(other)),
                Err(_) => error = error.or(Some(anyhow!("a thread of the runner's panicked"))),
            }
        }
        error.map_or(Ok(all), Err)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use std::sync::Barrier;

    #[test]
    fn each_item_is_worked_on_once() {
        let mut results = each(0..100, 7, |item| Ok(item * 2)).unwrap();
        results.sort();
        assert!(results.into_iter().eq((0..100).map(|item| item * 2)));
    }

    #[test]
    fn as_many_are_under_way_at_once_as_asked_for() {
        // With fewer threads than three this would wait for ever.
        let three = Barrier::new(3);
        each(0..6, 3, |_| {
            three.wait();
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn an_error_or_a_panic_is_told_and_the_others_go_on() {
        let done = Mutex::new(Vec::new());
        let error = each(0..10, 2, |item| {
            ensure!(item != 3, "no luck with {item}");
            done.lock().unwrap().push(item);
            Ok(())
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "no luck with 3");
        let mut done = done.into_inner().unwrap();
        done.sort();
        assert_eq!(done, [0, 1, 2, 4, 5, 6, 7, 8, 9]);

        let error = each(0..10, 2, |item| {
            assert_ne!(item, 3, "on purpose");
            Ok(())
        })
        .unwrap_err();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}
