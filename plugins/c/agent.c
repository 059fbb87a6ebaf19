// An agent as a plugin: each call loads the latest checkpoint of a session,
// does one step and saves it. `plugins/README.md` says what all languages do.
//
// A function that can fail returns whether it did what it should, and writes its
// text or the words of its error to `out`. What is passed to the checkpointer
// stays ours to free, and what it gives becomes ours.

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// Made from the interface by wit-bindgen.
#include "plugin.h"

#define LANGUAGE "c"
#define USAGE "say: SESSION | step SESSION [RUN] | history SESSION"

typedef plugin_string_t string;
typedef flow_checkpoint_checkpointer_borrow_checkpointer_t checkpointer;
typedef flow_checkpoint_checkpointer_checkpoint_t checkpoint;
typedef flow_checkpoint_checkpointer_error_t failure;

// Appends a text in which %s stands for a string, %i for an int64_t and %2 for one
// of two digits. The libc's own functions for this would bring WASI with them.
static void append(string *to, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    while (*format) {
        char digits[20];
        string piece = {(uint8_t *)format, strcspn(format, "%")};
        if (piece.len > 0) {
            format += piece.len;
        } else if (format[1] == 's') {
            piece = va_arg(arguments, string);
            format += 2;
        } else {
            int64_t number = va_arg(arguments, int64_t);
            uint64_t rest = number < 0 ? -(uint64_t)number : (uint64_t)number;
            char *first = digits + sizeof digits;
            do {
                *--first = (char)('0' + rest % 10);
            } while (rest /= 10);
            if (number < 0) *--first = '-';
            if (format[1] == '2' && first == digits + sizeof digits - 1) *--first = '0';
            piece = (string){(uint8_t *)first, (size_t)(digits + sizeof digits - first)};
            format += 2;
        }
        if (piece.len == 0) continue;
        to->ptr = realloc(to->ptr, to->len + piece.len);
        if (!to->ptr) abort();
        memcpy(to->ptr + to->len, piece.ptr, piece.len);
        to->len += piece.len;
    }
    va_end(arguments);
}

static string copy(string of) {
    string to = {0};
    append(&to, "%s", of);
    return to;
}

static string literal(const char *text) {
    string to;
    plugin_string_dup(&to, text);
    return to;
}

static bool same(string one, string other) {
    return one.len == other.len && memcmp(one.ptr, other.ptr, one.len) == 0;
}

static bool is(string one, const char *text) {
    return same(one, (string){(uint8_t *)text, strlen(text)});
}

static void append_unreadable(string *to, flow_checkpoint_checkpointer_unreadable_t of) {
    append(to, "checkpoint %s can't be read: %s", of.checkpoint_id, of.reason);
}

// Puts an error into words and frees it. Always false, to be returned.
static bool fail(failure *error, string *out) {
    switch (error->tag) {
    case FLOW_CHECKPOINT_CHECKPOINTER_ERROR_INVALID_ARGUMENT:
        append(out, "invalid argument: %s", error->val.invalid_argument);
        break;
    case FLOW_CHECKPOINT_CHECKPOINTER_ERROR_CONFLICT:
        if (error->val.conflict.tag == FLOW_CHECKPOINT_CHECKPOINTER_CONFLICT_LATEST) {
            append(out, "the session has gone on meanwhile");
        } else {
            flow_checkpoint_checkpointer_taken_t *taken = &error->val.conflict.val.taken;
            append(out, "checkpoint %s can't be saved: %s", taken->checkpoint_id, taken->reason);
        }
        break;
    case FLOW_CHECKPOINT_CHECKPOINTER_ERROR_CORRUPT:
        append_unreadable(out, error->val.corrupt);
        break;
    case FLOW_CHECKPOINT_CHECKPOINTER_ERROR_TOO_LARGE:
        append(out, "the state has %i bytes, and %i are allowed", (int64_t)error->val.too_large.size,
               (int64_t)error->val.too_large.limit);
        break;
    case FLOW_CHECKPOINT_CHECKPOINTER_ERROR_STORAGE:
        append(out, error->val.storage.effect == FLOW_CHECKPOINT_TYPES_EFFECT_NONE
                        ? "the store failed: %s"
                        : "the store failed, and the step may be saved or not: %s",
               error->val.storage.message);
        break;
    }
    flow_checkpoint_checkpointer_error_free(error);
    return false;
}

static bool skip(const char **at, const char *end, const char *piece) {
    ptrdiff_t length = (ptrdiff_t)strlen(piece);
    if (end - *at < length || memcmp(*at, piece, (size_t)length) != 0) return false;
    *at += length;
    return true;
}

// Reads {"count":N,"trail":[…]}, which all languages write in this very form, so
// that it takes no JSON library. `trail` is what stands between the brackets.
static bool read_state(string state, int64_t *count, string *trail) {
    const char *at = (const char *)state.ptr, *end = at + state.len;
    if (!skip(&at, end, "{\"count\":")) return false;
    const char *digits = at;
    // No count of what happened has more digits than that.
    for (; at < end && at - digits < 15 && *at >= '0' && *at <= '9'; at++) *count = *count * 10 + (*at - '0');
    if (at == digits || !skip(&at, end, ",\"trail\":[")) return false;
    trail->ptr = (uint8_t *)at;
    if (!skip(&at, end, "]")) {
        do {
            if (!skip(&at, end, "\"")) return false;
            while (at < end && *at != '"') at += *at == '\\' ? 2 : 1;
            if (!skip(&at, end, "\"")) return false;
        } while (skip(&at, end, ","));
        if (!skip(&at, end, "]")) return false;
    }
    trail->len = (size_t)((uint8_t *)at - trail->ptr) - 1;
    return skip(&at, end, "}") && at == end;
}

// The checkpoint that follows; nothing in it comes from a clock or from chance,
// so a step that is repeated gives the same.
static bool after(checkpoint *latest, string session, string run, int64_t attempt, checkpoint *next, string *out) {
    int64_t count = 0;
    string trail = {0};
    if (latest && !read_state(latest->state, &count, &trail)) {
        append(out, "the state of checkpoint %s is not this agent's", latest->metadata.checkpoint_id);
        return false;
    }
    count++;
    // Steps are counted within a run.
    bool goes_on = latest && latest->metadata.run.is_some && same(latest->metadata.run.val.run_id, run);
    string *fields = malloc(2 * sizeof(string));
    if (!fields) abort();
    fields[0] = literal("count");
    fields[1] = literal("trail");
    *next = (checkpoint){
        .metadata =
            {
                .session_id = copy(session),
                .node = literal(LANGUAGE),
                .step = goes_on ? latest->metadata.step + 1 : 1,
                .run.is_some = true,
                .run.val =
                    {
                        .run_id = copy(run),
                        .prev_node = latest ? copy(latest->metadata.node) : literal("__start__"),
                        .updated_fields = {fields, 2},
                        .attempt = {true, attempt},
                    },
            },
    };
    append(&next->metadata.checkpoint_id, "%s-%i-" LANGUAGE, run, count);
    // So many seconds into 2026, as long as it is January; what is no date then,
    // the checkpointer refuses.
    append(&next->metadata.timestamp, "2026-01-%2T%2:%2:%2Z", 1 + count / 86400, count / 3600 % 24,
           count / 60 % 60, count % 60);
    append(&next->state, "{\"count\":%i,\"trail\":[%s", count, trail);
    append(&next->state, trail.len ? ",\"" LANGUAGE "\"]}" : "\"" LANGUAGE "\"]}");
    return true;
}

// The newest checkpoints of the session, a line each.
static bool history(checkpointer self, string session, string *out) {
    flow_checkpoint_checkpointer_history_t found;
    failure error;
    if (!flow_checkpoint_checkpointer_method_checkpointer_list(self, &session, NULL, &found, &error))
        return fail(&error, out);
    for (size_t i = 0; i < found.checkpoints.len; i++) {
        flow_checkpoint_checkpointer_metadata_t *of = &found.checkpoints.ptr[i].metadata;
        append(out, out->len ? "\n%i %s %s" : "%i %s %s", of->step, of->node, of->checkpoint_id);
    }
    for (size_t i = 0; i < found.unreadable.len; i++) {
        if (out->len) append(out, "\n");
        append_unreadable(out, found.unreadable.ptr[i]);
    }
    flow_checkpoint_checkpointer_history_free(&found);
    return true;
}

// Goes one step on from the latest checkpoint, whatever others do meanwhile.
static bool step(checkpointer self, string session, string run, string *out) {
    bool saved = false;
    for (int64_t attempt = 1; !saved; attempt++) {
        flow_checkpoint_checkpointer_option_checkpoint_t latest;
        flow_checkpoint_checkpointer_outcome_t outcome;
        failure error;
        checkpoint next;
        if (!flow_checkpoint_checkpointer_method_checkpointer_load(self, &session, NULL, &latest, &error))
            return fail(&error, out);
        bool can = after(latest.is_some ? &latest.val : NULL, session, run, attempt, &next, out);
        if (can) {
            string *expected = latest.is_some ? &latest.val.metadata.checkpoint_id : NULL;
            saved = flow_checkpoint_checkpointer_method_checkpointer_save_after(self, &next, expected, &outcome,
                                                                                &error);
            flow_checkpoint_checkpointer_checkpoint_free(&next);
        }
        flow_checkpoint_checkpointer_option_checkpoint_free(&latest);
        if (!can) return false;
        // Another got ahead, and what was computed here is out of date. One gets
        // ahead each time, so this ends.
        if (!saved) {
            if (error.tag != FLOW_CHECKPOINT_CHECKPOINTER_ERROR_CONFLICT ||
                error.val.conflict.tag != FLOW_CHECKPOINT_CHECKPOINTER_CONFLICT_LATEST)
                return fail(&error, out);
            flow_checkpoint_checkpointer_error_free(&error);
        }
    }
    if (history(self, session, out)) return true;
    string reason = *out;
    *out = (string){0};
    append(out, "the step is saved, but not shown: %s", reason);
    plugin_string_free(&reason);
    return false;
}

// Splits a text at its blanks; says how many words there are, up to `most`.
static size_t split(string text, string *words, size_t most) {
    size_t count = 0, at = 0;
    while (true) {
        while (at < text.len && strchr(" \t\r\n", text.ptr[at])) at++;
        if (at == text.len || count == most) return count;
        size_t start = at;
        while (at < text.len && !strchr(" \t\r\n", text.ptr[at])) at++;
        words[count++] = (string){text.ptr + start, at - start};
    }
}

static bool act(string input, string *out) {
    string words[4];
    size_t count = split(input, words, 4);
    bool is_history = count == 2 && is(words[0], "history");
    bool is_step = count == 1 || ((count == 2 || count == 3) && is(words[0], "step"));
    if (!is_history && !is_step) {
        append(out, USAGE);
        return false;
    }
    flow_checkpoint_checkpointer_options_t options = {
        .bucket = literal("default"),
        .prefix = literal("llmfy_checkpoint:"),
    };
    flow_checkpoint_checkpointer_own_checkpointer_t opened;
    failure error;
    bool done = flow_checkpoint_checkpointer_static_checkpointer_open(&options, &opened, &error);
    flow_checkpoint_checkpointer_options_free(&options);
    if (!done) return fail(&error, out);
    checkpointer self = flow_checkpoint_checkpointer_borrow_checkpointer(opened);
    string session = words[count == 1 ? 0 : 1];
    done = is_history ? history(self, session, out) : step(self, session, count == 3 ? words[2] : session, out);
    flow_checkpoint_checkpointer_checkpointer_drop_own(opened);
    return done;
}

bool exports_plugin_run(string *input, string *ret, string *err) {
    string out = {0};
    bool done = act(*input, &out);
    plugin_string_free(input);
    *(done ? ret : err) = out;
    return done;
}
