//! Shows an answer to its tap (`sluice_plugin::AnswerTap`). The tap is taken out while it runs, as it gets the whole context.
use sluice_http::h1::{BodyReader, Framing};
use sluice_plugin::{Answer, Context};

#[cold]
pub(crate) fn head(cx: &mut Context) -> Answer {
    let Some(mut tap) = cx.answer_tap.take() else { return Answer::Pass };
    let answer = tap.head(cx);
    if matches!(answer, Answer::Watch | Answer::Keep) {
        cx.answer_tap = Some(tap);
    }
    answer
}

/// Shows a part of the body as it came over the wire; `at` is where the reader stands before it.
#[cold]
pub(crate) fn body(cx: &mut Context, mut at: BodyReader, part: &[u8]) {
    let Some(tap) = &mut cx.answer_tap else { return };
    let read = match at.framing() {
        Framing::Chunked => {
            let mut payload = Vec::with_capacity(part.len());
            let read = at.decode(part, &mut payload);
            tap.body(&payload);
            read
        }
        _ => {
            let read = at.scan(part);
            if let Ok(used) = read {
                tap.body(part.get(..used).unwrap_or_default());
            }
            read
        }
    };
    match read {
        Ok(_) if at.is_done() => {
            if let Some(tap) = cx.answer_tap.take() {
                tap.end();
            }
        }
        Ok(_) => {}
        Err(_) => cx.answer_tap = None,
    }
}
