// An authorizer by gRPC, of Envoy's own Go messages and of Google's gRPC, as many real ones are made.
//
// It does what the header x-ext of the request says: "allow" lets it pass and changes it, "slow" never answers, "break"
// fails; anything else, and nothing, refuses it. What it was asked is written as a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	failed "google.golang.org/grpc/status"
)

type server struct {
	auth.UnimplementedAuthorizationServer
	log  *os.File
	lock sync.Mutex
}

func header(key, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: key, Value: value}}
}

func (s *server) Check(ctx context.Context, asked *auth.CheckRequest) (*auth.CheckResponse, error) {
	about := asked.GetAttributes()
	http := about.GetRequest().GetHttp()
	line, _ := json.Marshal(map[string]any{
		"method": http.GetMethod(), "path": http.GetPath(), "host": http.GetHost(), "headers": http.GetHeaders(),
		"body": http.GetBody(), "raw": string(http.GetRawBody()),
		"source": about.GetSource().GetPrincipal(), "destination": about.GetDestination().GetPrincipal(),
		"address": about.GetSource().GetAddress().GetSocketAddress().GetAddress(),
	})
	s.lock.Lock()
	s.log.Write(append(line, '\n'))
	s.lock.Unlock()
	switch http.GetHeaders()["x-ext"] {
	case "allow":
		return &auth.CheckResponse{
			Status: &status.Status{Code: int32(codes.OK)},
			HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
				Headers:              []*core.HeaderValueOption{header("x-user", "alice")},
				HeadersToRemove:      []string{"x-secret", "host"},
				ResponseHeadersToAdd: []*core.HeaderValueOption{header("x-checked", "yes")},
			}},
		}, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "break":
		return nil, failed.Error(codes.Unavailable, "broken")
	}
	return &auth.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied)},
		HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status:  &kind.HttpStatus{Code: kind.StatusCode_Unauthorized},
			Headers: []*core.HeaderValueOption{header("x-why", "no x-ext")},
			Body:    "refused by the authorizer",
		}},
	}, nil
}

// Arguments: port, file for what it was asked.
func main() {
	log, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		panic(err)
	}
	grpcServer := grpc.NewServer()
	auth.RegisterAuthorizationServer(grpcServer, &server{log: log})
	if err := grpcServer.Serve(listener); err != nil {
		panic(err)
	}
}
