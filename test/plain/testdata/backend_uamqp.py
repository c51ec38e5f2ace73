# A back end by uamqp, as Azure's command line reads a hub (az iot hub monitor-events):
# it is redirected to the endpoint, asks it for its partitions, reads with a selector;
# and, as Azure's SDK for Python, sends to a device and is told of the end.
# Usage: backend_uamqp.py PORT TOKEN COUNT DEVICE-ID CA-FILE
import sys
import uamqp
from uamqp import authentication, errors

port, token, count, device, ca = sys.argv[1:]

def auth(audience):
    return authentication.SASTokenAuth(audience, audience, token, expires_in=None, expires_at=4102444800, port=int(port), verify=ca)

try:
    client = uamqp.ReceiveClient('amqps://localhost/messages/events/$management', auth=auth('amqps://localhost/messages/events'))
    client.receive_message_batch(max_batch_size=1)
    print('not redirected')
except errors.LinkRedirect as e:
    print('redirected to', e.hostname.decode(), e.port, e.address.decode())
finally:
    client.close()

hub = 'hub'

client = uamqp.AMQPClient('amqps://localhost/' + hub, auth=auth('amqps://localhost/' + hub))
client.open()
request = uamqp.Message(application_properties={'name': hub})
answer = client.mgmt_request(request, b'READ', op_type=b'com.microsoft:eventhub', status_code_field=b'status-code', description_fields=b'status-description')
described = answer.get_data()
print('partitions', described[b'partition_count'], [p.decode() for p in described[b'partition_ids']])
client.close()

source = uamqp.address.Source('amqps://localhost/' + hub + '/ConsumerGroups/$Default/Partitions/0')
source.set_filter(b"amqp.annotation.x-opt-offset > '-1'")
client = uamqp.ReceiveClient(source, auth=auth('amqps://localhost/' + hub), timeout=120000, prefetch=2)
for n, m in enumerate(client.receive_messages_iter(), 1):
    a = m.annotations
    print('read', b''.join(m.get_data()).decode(), a[b'x-opt-sequence-number'], a[b'x-opt-offset'].decode(), a[b'iothub-connection-device-id'].decode())
    if n == int(count):
        break
client.close()

client = uamqp.SendClient('amqps://localhost/messages/devicebound', auth=auth('https://localhost'))
client.queue_message(uamqp.Message(b'hello', properties=uamqp.message.MessageProperties(to='/devices/' + device + '/messages/devicebound', message_id='m-1'),
                                   application_properties={'iothub-ack': 'full', 'level': 3}))
print('sent', [str(r) for r in client.send_all_messages()])
client.close()
