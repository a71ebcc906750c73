package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"kubevirt.io/kubevirt/pkg/virt-launcher/virtwrap/cli"
)

const (
	longestDetail = 200
	execEnd       = "exec-end"
)

// entry is one line of the record. A call of the guest agent writes two, `sent` before and `done` or `failed` after it,
// so that calls which never end show too.
type entry struct {
	At     time.Time `json:"at"`
	Call   string    `json:"call"` // freeze, thaw, exec, exec-end, status, ping, safety-timer, malformed
	State  string    `json:"state"`
	Detail string    `json:"detail"` // what is executed, what was answered, or the error; cut
}

type recorder struct {
	lock sync.Mutex
	file *os.File
}

func (r *recorder) note(call, state, detail string) {
	if len(detail) > longestDetail {
		detail = detail[:longestDetail]
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	line, err := json.Marshal(entry{time.Now().UTC(), call, state, detail})
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if err != nil {
		panic(err) // a record with a gap proves nothing
	}
}

func (r *recorder) around(call, detail string, do func() (string, error)) error {
	r.note(call, "sent", detail)
	answer, err := do()
	if err != nil {
		r.note(call, "failed", err.Error())
	} else {
		r.note(call, "done", answer)
	}
	return err
}

// recordingConnection writes down what is sent through it. The agent poller has a connection without a record.
type recordingConnection struct {
	cli.Connection
	*recorder
}

func (c *recordingConnection) QemuAgentCommand(command, domain string) (answer string, err error) {
	call, detail := describe(command)
	if call == execEnd {
		return c.execStatus(command, domain)
	}
	err = c.around(call, detail, func() (string, error) {
		answer, err = c.Connection.QemuAgentCommand(command, domain)
		return answer, err
	})
	return answer, err
}

// execStatus notes the end of what was executed and none of the questions before it.
func (c *recordingConnection) execStatus(command, domain string) (string, error) {
	answer, err := c.Connection.QemuAgentCommand(command, domain)
	if err != nil {
		c.note(execEnd, "failed", err.Error())
	} else if strings.Contains(answer, `"exited":true`) {
		c.note(execEnd, "done", decoded(answer))
	}
	return answer, err
}

func (c *recordingConnection) freeze(domain string) error {
	return c.around("freeze", "", func() (string, error) {
		found, err := c.LookupDomainByName(domain)
		if err != nil {
			return "", err
		}
		defer found.Free()
		return "", found.FSFreeze(nil, 0)
	})
}

func (c *recordingConnection) thaw(domain string) error {
	return c.around("thaw", "", func() (string, error) {
		found, err := c.LookupDomainByName(domain)
		if err != nil {
			return "", err
		}
		defer found.Free()
		return "", found.FSThaw(nil, 0)
	})
}

var names = map[string]string{
	"guest-exec":            "exec",
	"guest-exec-status":     execEnd,
	"guest-fsfreeze-status": "status",
	"guest-ping":            "ping",
}

// describe names a command of the agent's protocol and says what it executes; what is no JSON is given as it is.
func describe(command string) (call, detail string) {
	var parsed struct {
		Execute   string `json:"execute"`
		Arguments struct {
			Path string   `json:"path"`
			Arg  []string `json:"arg"`
		} `json:"arguments"`
	}
	if err := json.Unmarshal([]byte(command), &parsed); err != nil {
		return "malformed", command
	}
	call, known := names[parsed.Execute]
	if !known {
		return parsed.Execute, command
	}
	if call != "exec" {
		return call, ""
	}
	detail = parsed.Arguments.Path
	for _, arg := range parsed.Arguments.Arg {
		detail += " " + decoded(arg)
	}
	return call, detail
}

var encoded = regexp.MustCompile(`[A-Za-z0-9+/]{12,}={0,2}`)

// decoded replaces each Base64 word of text by what it stands for, where that is text.
func decoded(text string) string {
	return encoded.ReplaceAllStringFunc(text, func(word string) string {
		plain, err := base64.StdEncoding.DecodeString(word)
		if err != nil || !utf8.Valid(plain) {
			return word
		}
		return string(plain)
	})
}
