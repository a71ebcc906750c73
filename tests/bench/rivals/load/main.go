// Command load sends one POST again and again over kept-alive TLS connections, each with one request in flight, and
// prints what it measured as JSON.
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
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

type plan struct {
	address  string
	tls      *tls.Config
	request  []byte
	expected []byte
	start    time.Time // when requests begin to count
	end      time.Time
}

type result struct {
	latencies []time.Duration
	sent      int
	failed    int
	reason    string
}

type report struct {
	Sent      int     `json:"sent"` // those of the warm-up too
	Requests  int     `json:"requests"`
	Failed    int     `json:"failed"`
	Reason    string  `json:"reason,omitempty"`
	PerSecond float64 `json:"perSecond"`
	P50       float64 `json:"p50Milliseconds"`
	P99       float64 `json:"p99Milliseconds"`
}

func (p plan) worker() result {
	var measured result
	var connection net.Conn
	var answers *bufio.Reader
	for {
		sent := time.Now()
		if sent.After(p.end) {
			break
		}
		measured.sent++
		var err error
		if connection == nil {
			if connection, err = tls.Dial("tcp", p.address, p.tls); err == nil {
				answers = bufio.NewReaderSize(connection, 64<<10)
			}
		}
		if err == nil {
			err = p.exchange(connection, answers)
		}
		done := time.Now()
		if err != nil {
			measured.failed, measured.reason = measured.failed+1, err.Error()
			if connection != nil {
				_ = connection.Close()
			}
			connection = nil
			time.Sleep(10 * time.Millisecond)
		} else if sent.After(p.start) {
			measured.latencies = append(measured.latencies, done.Sub(sent))
		}
	}
	if connection != nil {
		_ = connection.Close()
	}
	return measured
}

func (p plan) exchange(connection net.Conn, answers *bufio.Reader) error {
	if _, err := connection.Write(p.request); err != nil {
		return err
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %.300s", response.Status, body)
	}
	if !bytes.Contains(body, p.expected) {
		return fmt.Errorf("an answer without %s: %.300s", p.expected, body)
	}
	return nil
}

func (p plan) run(connections int) report {
	results := make([]result, connections)
	var workers sync.WaitGroup
	for index := range results {
		workers.Add(1)
		go func() {
			defer workers.Done()
			results[index] = p.worker()
		}()
	}
	workers.Wait()
	var all []time.Duration
	var out report
	for _, one := range results {
		all = append(all, one.latencies...)
		out.Sent += one.sent
		out.Failed += one.failed
		out.Reason = max(out.Reason, one.reason)
	}
	slices.Sort(all)
	out.Requests = len(all)
	out.PerSecond = float64(len(all)) / p.end.Sub(p.start).Seconds()
	if len(all) > 0 {
		out.P50 = milliseconds(all[len(all)/2])
		out.P99 = milliseconds(all[len(all)*99/100])
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

func raw(target *url.URL, body []byte, token string) []byte {
	var head strings.Builder
	fmt.Fprintf(&head, "POST %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\n", target.RequestURI(), target.Host)
	fmt.Fprintf(&head, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	if token != "" {
		fmt.Fprintf(&head, "Authorization: Bearer %s\r\n", token)
	}
	return append([]byte(head.String()+"\r\n"), body...)
}

func main() {
	runtime.GOMAXPROCS(1) // leave the other cores to what is measured
	target := flag.String("url", "", "where to POST, https")
	body := flag.String("body", "", "file with the body")
	ca := flag.String("ca", "", "file with the CA of the server")
	token := flag.String("token", "", "file with a bearer token")
	expected := flag.String("expect", "", "text that every answer must contain")
	connections := flag.Int("connections", 8, "connections, each with one request in flight")
	warmUp := flag.Duration("warm-up", time.Second, "how long requests do not count yet")
	duration := flag.Duration("duration", 5*time.Second, "how long they count")
	flag.Parse()
	parsed, err := url.Parse(*target)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(read(*ca)) {
		log.Fatalf("%s has no certificate", *ca)
	}
	bearer := ""
	if *token != "" {
		bearer = strings.TrimSpace(string(read(*token)))
	}
	start := time.Now().Add(*warmUp)
	out := plan{
		address:  parsed.Host,
		tls:      &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}},
		request:  raw(parsed, read(*body), bearer),
		expected: []byte(*expected),
		start:    start,
		end:      start.Add(*duration),
	}.run(*connections)
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
