// A sample agent as a plugin. Each call loads the latest checkpoint of a session,
// does one step and saves it. plugins/README.md describes the agent.

// The bindings expect the exports of the plugin in a package of this name.
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

// state is the agent's state. Its fields are stored in this order.
type state struct {
	Count int64    `json:"count"`
	Trail []string `json:"trail"`
}

// A garbage collection reads the clock. A call out of the component traps while the
// host writes an answer into its memory, so collections run only when requested.
func init() {
	debug.SetGCPercent(-1)
}

// Run is the export of the world.
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
	checkpointer, err := value(api.CheckpointerOpen(types.Options{Bucket: "default"}))
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

// step saves the step that follows the latest checkpoint.
func step(checkpointer *api.Checkpointer, session, run string) (string, error) {
	for attempt := int64(1); ; attempt++ {
		latest, err := value(checkpointer.Latest(session))
		if err != nil {
			return "", err
		}
		next, err := nextCheckpoint(latest, session, run, attempt)
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
		// If another save was first, this step is computed again. The loop ends,
		// because one of the concurrent saves succeeds each time.
		var failed failure
		isNotLatest := errors.As(err, &failed) && failed.cause.Tag() == types.ErrorConflict &&
			failed.cause.Conflict().Tag() == types.ConflictNotLatest
		if !isNotLatest {
			return "", err
		}
	}
	text, err := history(checkpointer, session)
	if err != nil {
		return "", fmt.Errorf("the step is saved, but the history can't be read: %w", err)
	}
	return text, nil
}

// nextCheckpoint returns the checkpoint that follows latest. It contains no time and
// no random value, so that a repeated step saves the same checkpoint.
func nextCheckpoint(
	latest witTypes.Option[types.Checkpoint], session, run string, attempt int64,
) (types.Checkpoint, error) {
	now, number, prevNode := state{}, int64(1), "__start__"
	if latest.IsSome() {
		checkpoint := latest.Some()
		previous := checkpoint.Metadata
		// A state that is not restored byte for byte is not this agent's.
		err := json.Unmarshal([]byte(checkpoint.State), &now)
		if err != nil || now.Count < 0 || now.text() != checkpoint.State {
			return types.Checkpoint{}, fmt.Errorf("the state of checkpoint %s is not this agent's", previous.CheckpointId)
		}
		prevNode = previous.Node
		// Steps are counted within a run.
		if previous.Run.IsSome() && previous.Run.Some().RunId == run {
			number = previous.Step + 1
		}
	}
	now = state{Count: now.Count + 1, Trail: append(now.Trail, language)}
	metadata := types.Metadata{
		SessionId:    session,
		CheckpointId: fmt.Sprintf("%s-%d-%s", run, now.Count, language),
		Timestamp:    time.Date(2026, 1, 1, 0, 0, int(now.Count), 0, time.UTC).Format(time.RFC3339),
		Node:         language,
		Step:         number,
		Run: witTypes.Some(types.Run{
			RunId:         run,
			PrevNode:      prevNode,
			UpdatedFields: []string{"count", "trail"},
			Attempt:       witTypes.Some(attempt),
		}),
	}
	return types.Checkpoint{Metadata: metadata, State: now.text()}, nil
}

func (s state) text() string {
	// Numbers and strings can always be encoded.
	text, _ := json.Marshal(s)
	return string(text)
}

// history lists the newest checkpoints of the session, one per line.
func history(checkpointer *api.Checkpointer, session string) (string, error) {
	found, err := value(checkpointer.List(types.HistoryQuery{SessionId: session}))
	if err != nil {
		return "", err
	}
	var lines []string
	for _, checkpoint := range found.Checkpoints {
		metadata := checkpoint.Metadata
		lines = append(lines, fmt.Sprintf("%d %s %s", metadata.Step, metadata.Node, metadata.CheckpointId))
	}
	for _, unreadable := range found.Unreadable {
		lines = append(lines, describeUnreadable(unreadable))
	}
	return strings.Join(lines, "\n"), nil
}

// failure is an error of the checkpointer as a Go error.
type failure struct{ cause types.Error }

// value converts the result of a call to a value and an error.
func value[T any](result witTypes.Result[T, types.Error]) (T, error) {
	if result.IsErr() {
		var none T
		return none, failure{result.Err()}
	}
	return result.Ok(), nil
}

func (f failure) Error() string {
	switch f.cause.Tag() {
	case types.ErrorInvalidArgument:
		return "invalid argument: " + f.cause.InvalidArgument()
	case types.ErrorConflict:
		if f.cause.Conflict().Tag() == types.ConflictNotLatest {
			return "the session has a newer checkpoint"
		}
		conflict := f.cause.Conflict().IdInUse()
		return fmt.Sprintf("checkpoint %s can't be saved: %s", conflict.CheckpointId, conflict.Reason)
	case types.ErrorCorrupt:
		return describeUnreadable(f.cause.Corrupt())
	case types.ErrorTooLarge:
		return fmt.Sprintf("the state has %d bytes, and the limit is %d", f.cause.TooLarge().Size, f.cause.TooLarge().Limit)
	default:
		if f.cause.Storage().Effect == types.EffectNone {
			return "the store failed: " + f.cause.Storage().Message
		}
		return "the store failed, and the step may or may not be saved: " + f.cause.Storage().Message
	}
}

func describeUnreadable(unreadable types.Unreadable) string {
	return fmt.Sprintf("checkpoint %s can't be read: %s", unreadable.CheckpointId, unreadable.Reason)
}
