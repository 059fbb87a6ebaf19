// An agent as a plugin: each call loads the latest checkpoint of a session,
// does one step and saves it. plugins/README.md says what all languages do.

// The package is the one in which the bindings look for what the plugin exports.
package export_wit_world

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	witTypes "go.bytecodealliance.org/pkg/wit/types"
	api "wit_component/flow_checkpoint_checkpointer"
	types "wit_component/flow_checkpoint_types"
)

const (
	language = "go"
	usage    = "say: SESSION | step SESSION [RUN] | history SESSION"
)

// What the agent knows. The order of the fields is the order they are stored in.
type state struct {
	Count int64    `json:"count"`
	Trail []string `json:"trail"`
}

// While the checkpointer's answer is written into the memory of this program, the
// program may call nothing outside, not even the clock, as a collection of garbage
// does. So one happens when it is asked for and at no other time.
func init() {
	debug.SetGCPercent(-1)
}

// Run is what the world of the plugin exports.
func Run(input string) witTypes.Result[string, string] {
	runtime.GC()
	text, err := act(strings.Fields(input))
	if err != nil {
		return witTypes.Err[string, string](err.Error())
	}
	return witTypes.Ok[string, string](text)
}

func act(words []string) (string, error) {
	if len(words) == 1 {
		words = []string{"step", words[0]}
	}
	isHistory := len(words) == 2 && words[0] == "history"
	isStep := (len(words) == 2 || len(words) == 3) && words[0] == "step"
	if !isHistory && !isStep {
		return "", errors.New(usage)
	}
	checkpointer, err := value(api.CheckpointerOpen(api.Options{Bucket: "default", Prefix: "llmfy_checkpoint:"}))
	if err != nil {
		return "", err
	}
	defer checkpointer.Drop()
	session, run := words[1], words[len(words)-1]
	if isHistory {
		return history(checkpointer, session)
	}
	return step(checkpointer, session, run)
}

// step goes one step on from the latest checkpoint, whatever others do meanwhile.
func step(checkpointer *api.Checkpointer, session, run string) (string, error) {
	for attempt := int64(1); ; attempt++ {
		latest, err := value(checkpointer.Load(session, witTypes.None[string]()))
		if err != nil {
			return "", err
		}
		next, err := after(latest, session, run, attempt)
		if err != nil {
			return "", err
		}
		expected := witTypes.None[string]()
		if latest.IsSome() {
			expected = witTypes.Some(latest.Some().Metadata.CheckpointId)
		}
		_, err = value(checkpointer.SaveAfter(next, expected))
		if err == nil {
			break
		}
		// If another got ahead, what was computed here is out of date. One gets
		// ahead each time, so this ends.
		var failed failure
		isOvertaken := errors.As(err, &failed) && failed.of.Tag() == api.ErrorConflict &&
			failed.of.Conflict().Tag() == api.ConflictLatest
		if !isOvertaken {
			return "", err
		}
	}
	text, err := history(checkpointer, session)
	if err != nil {
		return "", fmt.Errorf("the step is saved, but not shown: %w", err)
	}
	return text, nil
}

// after is the checkpoint that follows; nothing in it comes from a clock or from
// chance, so a step that is repeated gives the same.
func after(latest witTypes.Option[api.Checkpoint], session, run string, attempt int64) (api.Checkpoint, error) {
	now, number, prevNode := state{}, int64(1), "__start__"
	if latest.IsSome() {
		checkpoint := latest.Some()
		before := checkpoint.Metadata
		// Whatever does not come out as it went in, another agent wrote.
		err := json.Unmarshal([]byte(checkpoint.State), &now)
		if err != nil || now.Count < 0 || now.text() != checkpoint.State {
			return api.Checkpoint{}, fmt.Errorf("the state of checkpoint %s is not this agent's", before.CheckpointId)
		}
		prevNode = before.Node
		// Steps are counted within a run.
		if before.Run.IsSome() && before.Run.Some().RunId == run {
			number = before.Step + 1
		}
	}
	now = state{Count: now.Count + 1, Trail: append(now.Trail, language)}
	metadata := api.Metadata{
		SessionId:    session,
		CheckpointId: fmt.Sprintf("%s-%d-%s", run, now.Count, language),
		Timestamp:    time.Date(2026, 1, 1, 0, 0, int(now.Count), 0, time.UTC).Format(time.RFC3339),
		Node:         language,
		Step:         number,
		Run: witTypes.Some(api.Run{
			RunId:         run,
			PrevNode:      prevNode,
			UpdatedFields: []string{"count", "trail"},
			Attempt:       witTypes.Some(attempt),
		}),
	}
	return api.Checkpoint{Metadata: metadata, State: now.text()}, nil
}

func (s state) text() string {
	// Numbers and strings can't fail.
	text, _ := json.Marshal(s)
	return string(text)
}

// history is the newest checkpoints of the session, a line each.
func history(checkpointer *api.Checkpointer, session string) (string, error) {
	found, err := value(checkpointer.List(session, witTypes.None[uint32]()))
	if err != nil {
		return "", err
	}
	var lines []string
	for _, checkpoint := range found.Checkpoints {
		of := checkpoint.Metadata
		lines = append(lines, fmt.Sprintf("%d %s %s", of.Step, of.Node, of.CheckpointId))
	}
	for _, unreadable := range found.Unreadable {
		lines = append(lines, cannotBeRead(unreadable))
	}
	return strings.Join(lines, "\n"), nil
}

// failure makes an error of Go from one of the checkpointer.
type failure struct{ of api.Error }

// value is what a call gave, as Go gives it.
func value[T any](result witTypes.Result[T, api.Error]) (T, error) {
	if result.IsErr() {
		var none T
		return none, failure{result.Err()}
	}
	return result.Ok(), nil
}

func (f failure) Error() string {
	switch f.of.Tag() {
	case api.ErrorInvalidArgument:
		return "invalid argument: " + f.of.InvalidArgument()
	case api.ErrorConflict:
		if f.of.Conflict().Tag() == api.ConflictLatest {
			return "the session has gone on meanwhile"
		}
		taken := f.of.Conflict().Taken()
		return fmt.Sprintf("checkpoint %s can't be saved: %s", taken.CheckpointId, taken.Reason)
	case api.ErrorCorrupt:
		return cannotBeRead(f.of.Corrupt())
	case api.ErrorTooLarge:
		return fmt.Sprintf("the state has %d bytes, and %d are allowed", f.of.TooLarge().Size, f.of.TooLarge().Limit)
	default:
		if f.of.Storage().Effect == types.EffectNone {
			return "the store failed: " + f.of.Storage().Message
		}
		return "the store failed, and the step may be saved or not: " + f.of.Storage().Message
	}
}

func cannotBeRead(of api.Unreadable) string {
	return fmt.Sprintf("checkpoint %s can't be read: %s", of.CheckpointId, of.Reason)
}
