#!/usr/bin/env python3
# Writes crates/engine/src/pick/tests/envoy-1.40.txt anew: which endpoint a real Envoy chooses for a key, in rings and
# tables of several sizes and weights. Nobody listens at the endpoints; the choice stands in the access log.
#
# Usage: scripts/envoy-placement.py .venv/bin/envoy > crates/engine/src/pick/tests/envoy-1.40.txt
import subprocess, json, socket, time, http.client, sys, os, tempfile
ENVOY=sys.argv[1]
def free():
    s=socket.socket(); s.bind(('127.0.0.1',0)); p=s.getsockname()[1]; s.close(); return p
L={
 'ring': ('ring_hash',{'minimum_ring_size':1024},[1]*7,None),
 'ring-small': ('ring_hash',{'minimum_ring_size':7},[1]*7,None),
 'ring-weights': ('ring_hash',{'minimum_ring_size':1024},[1,2,3,5,8,1,4],None),
 'ring-odd': ('ring_hash',{'minimum_ring_size':100},[3,1,3,1,7,2,9],None),
 'maglev': ('maglev',{},[1]*7,None),
 'maglev-weights': ('maglev',{'table_size':251},[1,2,3,5,8,1,4],None),
 'maglev-small': ('maglev',{'table_size':11},[1]*7,None),
 'ring-places': ('ring_hash',{'minimum_ring_size':1024,'locality_weighted_lb_config':{}},[1,2,3,5,8,1,4],[30,70]),
 'maglev-places': ('maglev',{'table_size':65537,'locality_weighted_lb_config':{}},[1,2,3,5,8,1,4],[30,70]),
}
port=free(); d=tempfile.mkdtemp(); log=d+'/log'
def cluster(n,v):
    kind,cfg,w,places=v
    T={'ring_hash':'envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash','maglev':'envoy.extensions.load_balancing_policies.maglev.v3.Maglev'}[kind]
    c=dict(cfg); c['@type']='type.googleapis.com/'+T
    c['consistent_hashing_lb_config']={'hash_policy':[{'header':{'header_name':'x-user'}}]}
    ep=[{'endpoint':{'address':{'socket_address':{'address':'127.0.0.1','port_value':i+1}}},'load_balancing_weight':x} for i,x in enumerate(w)]
    groups=[{'lb_endpoints':ep}] if places is None else [{'locality':{'region':'a'},'load_balancing_weight':places[0],'lb_endpoints':ep[:3]},{'locality':{'region':'b'},'load_balancing_weight':places[1],'lb_endpoints':ep[3:]}]
    return {'name':n,'type':'STATIC','connect_timeout':'1s','load_assignment':{'cluster_name':n,'endpoints':groups},
      'common_lb_config':{'healthy_panic_threshold':{'value':0}},
      'load_balancing_policy':{'policies':[{'typed_extension_config':{'name':'envoy.load_balancing_policies.'+kind,'typed_config':c}}]}}
boot={'static_resources':{'clusters':[cluster(n,v) for n,v in L.items()],'listeners':[{'address':{'socket_address':{'address':'127.0.0.1','port_value':port}},'filter_chains':[{'filters':[{'name':'hcm','typed_config':{'@type':'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager','stat_prefix':'x',
 'access_log':[{'name':'f','typed_config':{'@type':'type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog','path':log,'log_format':{'text_format_source':{'inline_string':'%REQ(x-user)% %UPSTREAM_CLUSTER% %UPSTREAM_HOST%\n'}}}}],
 'http_filters':[{'name':'envoy.filters.http.router','typed_config':{'@type':'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'}}],
 'route_config':{'virtual_hosts':[{'name':'v','domains':['*'],'routes':[{'match':{'prefix':'/'+n+'/'},'route':{'cluster':n}} for n in L]}]}}}]}]}]}}
open(d+'/b.json','w').write(json.dumps(boot))
p=subprocess.Popen([ENVOY,'-c',d+'/b.json','--concurrency','1','--base-id','77','-l','error'])
try:
    for _ in range(100):
        try: http.client.HTTPConnection('127.0.0.1',port,timeout=5).request('GET','/'); break
        except Exception: time.sleep(.1)
    N=240
    c=http.client.HTTPConnection('127.0.0.1',port)
    for n in L:
        for k in range(N):
            c.request('GET','/'+n+'/',headers={'x-user':f'user-{k}'}); r=c.getresponse(); r.read()
    for _ in range(100):
        lines=[l.split() for l in open(log)] if os.path.exists(log) else []
        if sum(1 for l in lines if l[1]!='-')>=N*len(L): break
        time.sleep(.3)
finally:
    p.terminate(); p.wait()
out={n:['?']*N for n in L}
for u,cl,h in lines:
    if cl in out: out[cl][int(u.split('-')[1])]=str(int(h.rsplit(':',1)[1])-1) if h!='-' else '-'
txt='# Which of seven endpoints (127.0.0.1:1 to :7) an Envoy 1.40 chose for the keys user-0, user-1, …: layout, digit per key.\n'
for n in L: txt+=n+' '+''.join(out[n])+'\n'
print(txt,end='')
