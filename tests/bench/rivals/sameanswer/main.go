// Command sameanswer is the limit: a server that gives every review the same answer, with the review's own uid, which
// the API server insists on. It parses nothing.
package main

import (
	"bytes"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
)

var mark = []byte(`"uid":"`)

// uidOf is the first uid of a review, which is the request's: kube-apiserver writes it first.
func uidOf(review []byte) []byte {
	start := bytes.Index(review, mark)
	if start < 0 {
		return nil
	}
	rest := review[start+len(mark):]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return nil
	}
	return rest[:end]
}

func main() {
	port := flag.Int("port", 0, "HTTPS port on 127.0.0.1")
	certificates := flag.String("certs", "", "folder with tls.crt and tls.key")
	answer := flag.String("answer", "", "file with the answer to one review; its uid is replaced")
	flag.Parse()
	template, err := os.ReadFile(*answer)
	if err != nil {
		log.Fatal(err)
	}
	uid := uidOf(template)
	if uid == nil {
		log.Fatalf("%s has no uid", *answer)
	}
	before, after, _ := bytes.Cut(template, uid)
	http.HandleFunc("POST /mutate/pods", func(response http.ResponseWriter, request *http.Request) {
		review, err := io.ReadAll(request.Body)
		if err != nil {
			http.Error(response, err.Error(), http.StatusBadRequest)
			return
		}
		body := append(append(append(make([]byte, 0, len(template)+64), before...), uidOf(review)...), after...)
		response.Header().Set("Content-Type", "application/json")
		response.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = response.Write(body)
	})
	address := "127.0.0.1:" + strconv.Itoa(*port)
	log.Fatal(http.ListenAndServeTLS(address, *certificates+"/tls.crt", *certificates+"/tls.key", nil))
}
