// Command send reads requests from standard input, one JSON object a line, sends them to one server over kept-alive
// HTTP/1.1 connections, and prints what it measured as JSON. It decides nothing and remembers nothing: the bare client.
//
// Without -rate each request is sent once, as fast as -connections allow. With it the first one is sent over and over at
// that rate until standard input ends, and a latency counts from the moment at which the request was due.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

type request struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Type   string          `json:"type"`
	Body   json.RawMessage `json:"body"`
}

type answer struct {
	Metadata struct {
		UID string `json:"uid"`
	} `json:"metadata"`
}

// job is the place of a request among all, and when it was due; zero: as soon as a worker is free.
type job struct {
	index int
	due   time.Time
}

type report struct {
	Requests  int      `json:"requests"`
	Failed    int      `json:"failed"`
	Reason    string   `json:"reason,omitempty"`
	Seconds   float64  `json:"seconds"`
	PerSecond float64  `json:"perSecond"`
	P50       float64  `json:"p50Milliseconds"`
	P99       float64  `json:"p99Milliseconds"`
	Max       float64  `json:"maxMilliseconds"`
	UIDs      []string `json:"uids,omitempty"`
}

type sender struct {
	client    *http.Client
	url       string
	token     string
	accept    string
	expected  []byte
	requests  []request
	uids      []string // of the objects in the answers, if they are wanted
	mutex     sync.Mutex
	latencies []time.Duration
	failed    int
	reason    string
}

func (s *sender) work(jobs <-chan job) {
	for next := range jobs {
		if next.due.IsZero() {
			next.due = time.Now()
		}
		err := s.send(next.index)
		latency := time.Since(next.due)
		s.mutex.Lock()
		if err != nil {
			s.failed, s.reason = s.failed+1, err.Error()
		} else {
			s.latencies = append(s.latencies, latency)
		}
		s.mutex.Unlock()
	}
}

func (s *sender) send(index int) error {
	wanted := s.requests[index]
	out, err := http.NewRequest(wanted.Method, s.url+wanted.Path, bytes.NewReader(wanted.Body))
	if err != nil {
		return err
	}
	out.Header.Set("Accept", s.accept)
	out.Header.Set("Content-Type", wanted.Type)
	out.Header.Set("Authorization", "Bearer "+s.token)
	response, err := s.client.Do(out)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.300s", wanted.Method, wanted.Path, response.Status, body)
	}
	if !bytes.Contains(body, s.expected) {
		return fmt.Errorf("%s %s: an answer without %s: %.300s", wanted.Method, wanted.Path, s.expected, body)
	}
	if s.uids != nil {
		var got answer
		if err := json.Unmarshal(body, &got); err != nil {
			return err
		}
		s.uids[index] = got.Metadata.UID
	}
	return nil
}

// once gives each request to the workers as soon as one is free.
func (s *sender) once(jobs chan<- job) {
	for index := range s.requests {
		jobs <- job{index: index}
	}
}

// paced gives the first request to the workers at a rate until `stop` is closed. A worker that is late does not slow it
// down.
func (s *sender) paced(jobs chan<- job, rate float64, stop <-chan struct{}) {
	interval := time.Duration(float64(time.Second) / rate)
	for due := time.Now(); ; due = due.Add(interval) {
		select {
		case <-stop:
			return
		case <-time.After(time.Until(due)):
			jobs <- job{0, due}
		}
	}
}

func (s *sender) run(connections int, rate float64, stop <-chan struct{}) report {
	jobs := make(chan job)
	if rate > 0 {
		jobs = make(chan job, 100_000)
	}
	var workers sync.WaitGroup
	for range connections {
		workers.Go(func() { s.work(jobs) })
	}
	start := time.Now()
	if rate > 0 {
		s.paced(jobs, rate, stop)
	} else {
		s.once(jobs)
	}
	close(jobs)
	workers.Wait()
	seconds := time.Since(start).Seconds()
	out := report{Requests: len(s.latencies), Failed: s.failed, Reason: s.reason, Seconds: seconds, UIDs: s.uids}
	out.PerSecond = float64(out.Requests) / seconds
	if slices.Sort(s.latencies); out.Requests > 0 {
		out.P50 = milliseconds(s.latencies[out.Requests/2])
		out.P99 = milliseconds(s.latencies[out.Requests*99/100])
		out.Max = milliseconds(s.latencies[out.Requests-1])
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func read(path string) []byte {
	content, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	return content
}

// next reads a request; false at the end of the input.
func next(lines *bufio.Reader) (request, bool) {
	line, err := lines.ReadBytes('\n')
	if err == io.EOF && len(line) == 0 {
		return request{}, false
	}
	if err != nil && err != io.EOF {
		log.Fatal(err)
	}
	var one request
	if err := json.Unmarshal(line, &one); err != nil {
		log.Fatal(err)
	}
	return one, true
}

func readAll(lines *bufio.Reader) []request {
	var all []request
	for one, more := next(lines); more; one, more = next(lines) {
		all = append(all, one)
	}
	return all
}

// ended is closed when the input ends, be it that the parent died.
func ended(lines *bufio.Reader) <-chan struct{} {
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		close(end)
	}()
	return end
}

func newClient(ca string, connections int) *http.Client {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(ca)) {
		log.Fatalf("%s has no certificate", ca)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		Protocols:           protocols,
		MaxIdleConnsPerHost: connections,
		DisableCompression:  true,
	}}
}

func main() {
	url := flag.String("url", "", "the server, https")
	ca := flag.String("ca", "", "file with the CA of the server")
	token := flag.String("token", "", "file with a bearer token")
	accept := flag.String("accept", "application/json", "the Accept header")
	expected := flag.String("expect", "", "text that every answer must contain")
	connections := flag.Int("connections", 8, "connections, each with one request in flight")
	rate := flag.Float64("rate", 0, "requests per second; 0 sends each request once")
	uids := flag.Bool("uids", false, "print the UIDs of the objects in the answers")
	processors := flag.Int("processors", 0, "how many cores to use; 0: all")
	flag.Parse()
	runtime.GOMAXPROCS(*processors)
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	all := sender{
		client:   newClient(*ca, *connections),
		url:      *url,
		token:    strings.TrimSpace(string(read(*token))),
		accept:   *accept,
		expected: []byte(*expected),
	}
	var stop <-chan struct{}
	if *rate > 0 {
		one, _ := next(lines)
		all.requests, stop = []request{one}, ended(lines)
	} else {
		all.requests = readAll(lines)
	}
	if *uids {
		all.uids = make([]string, len(all.requests))
	}
	if len(all.requests) == 0 {
		log.Fatal("there is nothing to send")
	}
	if err := json.NewEncoder(os.Stdout).Encode(all.run(*connections, *rate, stop)); err != nil {
		log.Fatal(err)
	}
}
