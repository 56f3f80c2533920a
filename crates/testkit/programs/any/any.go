// A program that knows nothing of a mesh. As a server it says its version and who called; as a client it calls each
// address some times and prints the answers.
//
//	any-go serve PORT VERSION
//	any-go call TIMES URL...
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
)

type answer struct{ Version, Peer string }

func peer(header string) string {
	for _, part := range strings.Split(header, ";") {
		if uri, ok := strings.CutPrefix(part, "URI="); ok {
			return uri
		}
	}
	return ""
}

func serve(port, version string) error {
	return http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := map[string]string{"version": version, "peer": peer(r.Header.Get("x-forwarded-client-cert"))}
		_ = json.NewEncoder(w).Encode(body)
	}))
}

func call(times int, urls []string) error {
	for _, url := range urls {
		for range times {
			response, err := http.Get(url)
			if err != nil {
				return err
			}
			var said answer
			err = json.NewDecoder(response.Body).Decode(&said)
			response.Body.Close()
			if err != nil {
				return fmt.Errorf("%s: status %d: %w", url, response.StatusCode, err)
			}
			fmt.Println(url, response.StatusCode, said.Version, said.Peer)
		}
	}
	return nil
}

func main() {
	var err error
	if os.Args[1] == "serve" {
		err = serve(os.Args[2], os.Args[3])
	} else {
		times, _ := strconv.Atoi(os.Args[2])
		err = call(times, os.Args[3:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
